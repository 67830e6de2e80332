"""The doctor: events in, a report out.

doctor = Doctor()
reader = LogReader()
for data in stream:
    doctor.feed(reader.feed(data))
doctor.feed(reader.close())
report = doctor.report()
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from farspan.diagnosis.capacity import plain_terms
from farspan.diagnosis.findings import Evidence, Finding, Noise, Severity
from farspan.diagnosis.noise import HARMLESS
from farspan.diagnosis.records import (
    Access,
    Arguments,
    Batch,
    Event,
    LogMessage,
    Progress,
    StartPhase,
    Throughput,
)
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.rules import LINE_RULES, STATE_RULES
from farspan.diagnosis.server_state import Hints, ServerState
from farspan.diagnosis.timeline import Entry, Timeline

_SIGHTINGS = 32
_UNRECOGNISED = 40
_DAILY = (Batch, Throughput, Access)


@dataclass(frozen=True, slots=True)
class Report:
    """What happened.

    Args:
        engine: "vllm", "sglang", or empty when the log shows neither.
        version: Its version as the log says it; empty when it does not.
        timeline: Phases and incidents of the last start in log order.
        capacity: The engine's own figures, by the names of `farspan.diagnosis.capacity.PLAIN`.
        in_plain_terms: What those figures mean, one sentence an item.
        findings: What went wrong, the worst first; of equals, the first in the log.
        noise: Warnings that need no action.
        starts: How many times the server was started in this log.
        lines: How far the log was read.
        situation: All that was gathered, for callers who need more.
    """

    engine: str
    version: str
    timeline: tuple[Entry, ...]
    capacity: dict[str, float]
    in_plain_terms: tuple[str, ...]
    findings: tuple[Finding, ...]
    noise: tuple[Noise, ...]
    starts: int
    lines: int
    situation: ServerState

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding."""
        return self.findings[0].severity if self.findings else None

    @property
    def recognised(self) -> bool:
        """Whether anything in the log was an engine's."""
        situation = self.situation
        return bool(
            self.engine
            or self.findings
            or self.timeline
            or situation.rates.lines
            or situation.door.answered
            or situation.door.refused
        )

    @property
    def ready(self) -> bool:
        """Whether the last start got as far as answering requests."""
        return self.situation.ready is not None


_RULES_BY_MARK: dict[bytes, list[Rule]] = {}
for _rule in LINE_RULES:
    for _needle in _rule.needles:
        _RULES_BY_MARK.setdefault(_needle.encode(), []).append(_rule)
_HARMLESS_BY_MARK = {harmless.needle.encode(): harmless for harmless in HARMLESS}
_ORDER = {severity: number for number, severity in enumerate(Severity)}


@dataclass(slots=True)
class _Start:
    """One start of a server and all that was seen of it."""

    situation: ServerState = field(default_factory=ServerState)
    timeline: Timeline = field(default_factory=Timeline)
    sightings: dict[str, list[RuleMatch]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    noise: dict[str, tuple[RuleMatch | None, Noise]] = field(default_factory=dict)


class Doctor:
    """Gathers events and, whenever asked, says what they mean. Bounded memory."""

    def __init__(self, hints: Hints | None = None) -> None:
        self._hints = hints or Hints()
        self._start = _Start(ServerState(self._hints))
        self._starts = 0
        self._earlier: tuple[Finding, ...] = ()

    @property
    def situation(self) -> ServerState:
        """All that is known so far of the current start."""
        return self._start.situation

    def feed(self, events: Iterable[Event]) -> None:
        """Take events in."""
        for event in events:
            if isinstance(event, _DAILY):  # they come by the million and begin or end nothing
                self._start.situation.see(event)
            else:
                self._see(event)

    def _see(self, event: Event) -> None:
        start = self._start
        if isinstance(event, Arguments) and event.where.process in ("", "APIServer") and self._is_restart():
            self._earlier = (
                tuple(finding for finding in self._findings(start) if finding.severity is Severity.ERROR)
                or self._earlier
            )
            start = self._start = _Start(ServerState(self._hints))
        frames: tuple[tuple[str, str], ...] = ()
        if isinstance(event, LogMessage):
            frames = start.situation.tracebacks.frames(event.where.process)
        start.situation.see(event)
        if isinstance(event, Progress):
            if event.phase is StartPhase.CONFIG:
                self._starts += 1
            at = event.where.at if event.where.at is not None else start.situation.last_at
            start.timeline.see(event, at)
        elif isinstance(event, LogMessage):
            self._see_message(event, frames, start)

    def _is_restart(self) -> bool:
        situation = self._start.situation
        return bool(situation.args) and (
            situation.ready is not None or situation.died is not None or situation.stopped is not None
        )

    def _see_message(self, message: LogMessage, frames: tuple[tuple[str, str], ...], start: _Start) -> None:
        text = message.text
        was_ready = start.situation.ready is not None
        known = False
        for mark in message.marks:
            for rule in _RULES_BY_MARK.get(mark, ()):
                match = rule.pattern.search(text)
                if match is None:
                    continue
                known = True
                seen = start.sightings.setdefault(rule.id, [])
                if seen and seen[-1].message is message:
                    continue  # two needles of one rule in one line
                start.counts[rule.id] = start.counts.get(rule.id, 0) + message.times
                if len(seen) < _SIGHTINGS:
                    seen.append(RuleMatch(message, match, frames, was_ready))
        for mark in message.marks:
            harmless = _HARMLESS_BY_MARK.get(mark)
            match = harmless.pattern.search(text) if harmless is not None else None
            if harmless is not None and match is not None:
                sighting = RuleMatch(message, match, frames, was_ready)
                self._count_noise(start, harmless.id, harmless.why, message, sighting)
                return
        if not known and message.level == "WARNING":
            shape = "".join(char for char in text[:120] if not char.isdigit())
            if f"?{shape}" in start.noise or len(start.noise) < _UNRECOGNISED:
                self._count_noise(start, f"?{shape}", "", message, None)

    @staticmethod
    def _count_noise(
        start: _Start, key: str, why: str, message: LogMessage, sighting: RuleMatch | None
    ) -> None:
        if key in start.noise:
            first, noise = start.noise[key]
            evidence = replace(noise.evidence, count=noise.evidence.count + message.times)
            start.noise[key] = (first, replace(noise, evidence=evidence))
            return
        evidence = Evidence(message.where.line, message.raw, message.times)
        name = "unrecognised" if sighting is None else key
        start.noise[key] = (
            sighting,
            Noise(name, why or "A warning the doctor does not know.", evidence, sighting is not None),
        )

    def report(self, lines: int = 0) -> Report:
        """Say what is known so far. May be called at any time, and again.

        Args:
            lines: Lines read so far, as the reader counts them; the last line with an event when not given.
        """
        start = self._start
        situation = start.situation
        findings = list(self._findings(start))
        if self._earlier and not any(finding.severity is Severity.ERROR for finding in findings):
            findings.extend(
                replace(finding, cause=f"In an earlier start: {finding.cause}") for finding in self._earlier
            )
        findings.sort(key=lambda finding: (_ORDER[finding.severity], finding.evidence.line))
        return Report(
            engine=situation.engine,
            version=situation.version or self._hints.engine_version,
            timeline=tuple(copy.deepcopy(start.timeline).finish()),
            capacity=dict(situation.figures),
            in_plain_terms=tuple(plain_terms(situation)),
            findings=tuple(findings),
            noise=tuple(self._noise(start)),
            starts=self._starts,
            lines=lines or situation.last.line,
            situation=situation,
        )

    @staticmethod
    def _noise(start: _Start) -> Iterable[Noise]:
        conditions = {harmless.id: harmless.only_if for harmless in HARMLESS}
        for first, noise in start.noise.values():
            condition = conditions.get(noise.id)
            counted = None if first is None else replace(first, count=noise.evidence.count)
            if counted is None or condition is None or condition(counted, start.situation):
                yield noise

    def _findings(self, start: _Start) -> Iterable[Finding]:
        # Rates are closed on a copy: the log may go on.
        situation = replace(start.situation, rates=copy.deepcopy(start.situation.rates))
        situation.rates.close(situation.last.line)
        found: list[Finding] = []
        explained: set[int] = set()
        for rule in LINE_RULES:
            sightings = start.sightings.get(rule.id, ())
            for sighting in sightings:
                counted = replace(sighting, count=start.counts[rule.id])
                diagnosis = rule.explain(counted, situation)
                if diagnosis is not None:
                    found.append(_finding(rule.id, rule.severity, diagnosis, counted.evidence, rule.sources))
                    explained.update(one.message.where.line for one in sightings)
                    break
        situation.explained = frozenset(explained)
        for state_rule in STATE_RULES:
            if state_rule.only_unexplained and any(one.severity is Severity.ERROR for one in found):
                continue
            diagnosis = state_rule.look(situation)
            if diagnosis is not None:
                evidence = diagnosis.evidence or Evidence(situation.last.line, "")
                found.append(
                    _finding(state_rule.id, state_rule.severity, diagnosis, evidence, state_rule.sources)
                )
        return found


def _finding(
    id_: str, severity: Severity, diagnosis: Diagnosis, evidence: Evidence, sources: tuple[str, ...]
) -> Finding:
    return Finding(
        id=id_,
        severity=diagnosis.severity or severity,
        cause=diagnosis.cause,
        evidence=diagnosis.evidence or evidence,
        fix=diagnosis.fix,
        confidence=diagnosis.confidence,
        sources=sources,
    )
