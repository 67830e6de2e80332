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
from farspan.diagnosis.knowledge import knowledge
from farspan.diagnosis.start_so_far import starting_terms
from farspan.diagnosis.timeline import Entry, Timeline
from farspan.diagnosis.work_done import start_terms, work_terms
from farspan.engines.logs.findings import Evidence, Finding, Noise, Severity
from farspan.engines.logs.records import (
    Access,
    Arguments,
    Batch,
    Event,
    LogMessage,
    Progress,
    StartPhase,
    Throughput,
)
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, StateRule
from farspan.engines.logs.server_state import Hints, ServerState

_SIGHTINGS = 32
_UNRECOGNISED = 40
_SAME_ERROR = 12  # lines an error's text may go on for
_CALM = ("DEBUG", "INFO", "WARNING")
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
        server_state: All that was gathered, for callers who need more.
        seen_at: Where a running server was looked at; empty for a log.
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
    server_state: ServerState
    seen_at: str = ""

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding."""
        return self.findings[0].severity if self.findings else None

    @property
    def recognised(self) -> bool:
        """Whether anything in the log was an engine's."""
        server_state = self.server_state
        return bool(
            self.engine
            or self.findings
            or self.timeline
            or server_state.rates.lines
            or server_state.access_log.answered
            or server_state.access_log.refused
            or any(noise.harmless for noise in self.noise)
        )

    @property
    def ready(self) -> bool:
        """Whether the last start got as far as answering requests."""
        return self.server_state.ready is not None


_ORDER = {severity: number for number, severity in enumerate(Severity)}


@dataclass(slots=True)
class _Start:
    """One start of a server and all that was seen of it."""

    server_state: ServerState = field(default_factory=ServerState)
    timeline: Timeline = field(default_factory=Timeline)
    rule_matches: dict[str, list[RuleMatch]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    noise: dict[str, Noise] = field(default_factory=dict)


class Doctor:
    """Gathers events and, whenever asked, says what they mean. Bounded memory."""

    def __init__(self, hints: Hints | None = None) -> None:
        self._hints = hints or Hints()
        self._start = _Start(ServerState(self._hints))
        self._starts = 0
        self._earlier: tuple[Finding, ...] = ()

    @property
    def server_state(self) -> ServerState:
        """All that is known so far of the current start."""
        return self._start.server_state

    def feed(self, events: Iterable[Event]) -> None:
        """Take events in."""
        for event in events:
            if isinstance(event, _DAILY):  # they come by the million and begin or end nothing
                self._start.server_state.see(event)
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
            frames = start.server_state.tracebacks.frames(event.where.process)
        start.server_state.see(event)
        if isinstance(event, Progress):
            if event.phase is StartPhase.CONFIG:
                self._starts += 1
            at = event.where.at if event.where.at is not None else start.server_state.last_at
            start.timeline.see(event, at)
        elif isinstance(event, LogMessage):
            self._see_message(event, frames, start)

    def _is_restart(self) -> bool:
        server_state = self._start.server_state
        return bool(server_state.args) and (
            server_state.ready is not None
            or server_state.died is not None
            or server_state.stopped is not None
        )

    def _see_message(self, message: LogMessage, frames: tuple[tuple[str, str], ...], start: _Start) -> None:
        text = message.text
        was_ready = start.server_state.ready is not None
        everything = knowledge()
        known, noise_from = False, len(everything.lines) + len(everything.rules)
        for number in sorted(message.rules):
            pattern = everything.sought(number)
            match = pattern.search(text) if pattern is not None else None
            if match is None:
                continue
            rule_match = RuleMatch(message, match, frames, was_ready)
            if number >= noise_from:
                kind = everything.noise[number - noise_from]
                self._count_noise(start, kind.id, kind.why, message, is_known=True)
                return
            known = True
            rule = everything.rules[number - len(everything.lines)]
            seen = start.rule_matches.setdefault(rule.id, [])
            start.counts[rule.id] = start.counts.get(rule.id, 0) + message.times
            if len(seen) < _SIGHTINGS:
                seen.append(rule_match)
        if not known and message.level == "WARNING":
            shape = "".join(char for char in text[:120] if not char.isdigit())
            if f"?{shape}" in start.noise or len(start.noise) < _UNRECOGNISED:
                self._count_noise(start, f"?{shape}", "", message, is_known=False)

    @staticmethod
    def _count_noise(start: _Start, key: str, why: str, message: LogMessage, *, is_known: bool) -> None:
        noise = start.noise.get(key)
        if noise is not None:
            evidence = replace(noise.evidence, count=noise.evidence.count + message.times)
            start.noise[key] = replace(noise, evidence=evidence)
            return
        evidence = Evidence(message.where.line, message.raw, message.times)
        name = key if is_known else "unrecognised"
        start.noise[key] = Noise(name, why or "A warning the doctor does not know.", evidence, is_known)

    def report(self, lines: int = 0) -> Report:
        """Say what is known so far. May be called at any time, and again.

        Args:
            lines: Lines read so far, as the reader counts them; the last line with an event when not given.
        """
        start = self._start
        server_state = start.server_state
        findings = list(self._findings(start))
        if self._earlier and not any(finding.severity is Severity.ERROR for finding in findings):
            findings.extend(
                replace(finding, cause=f"In an earlier start: {finding.cause}") for finding in self._earlier
            )
        findings.sort(key=lambda finding: (_ORDER[finding.severity], finding.evidence.line))
        timeline = tuple(copy.deepcopy(start.timeline).finish())
        rated = replace(server_state, rates=copy.deepcopy(server_state.rates))
        rated.rates.close(server_state.last.line)
        return Report(
            engine=server_state.engine,
            version=server_state.version or self._hints.engine_version,
            timeline=timeline,
            capacity=dict(server_state.figures),
            in_plain_terms=(
                *starting_terms(server_state, timeline),
                *plain_terms(server_state),
                *work_terms(rated),
                *start_terms(server_state, timeline),
            ),
            findings=tuple(findings),
            noise=tuple(
                noise for noise in start.noise.values() if noise.evidence.line not in server_state.explained
            ),
            starts=self._starts,
            lines=lines or server_state.last.line,
            server_state=server_state,
        )

    @staticmethod
    def _judge(
        rule: Rule, start: _Start, server_state: ServerState, *, calm: bool
    ) -> tuple[Finding | None, tuple[int, ...]]:
        """What a rule says of its lines: of those logged as warnings (or less) if `calm`, else of the others."""
        rule_matches = start.rule_matches.get(rule.id, ())
        for rule_match in rule_matches:
            counted = replace(rule_match, count=start.counts[rule.id])
            diagnosis = _explain(rule, counted, server_state)
            if diagnosis is None or _was_survived(rule, rule_match, diagnosis, server_state):
                continue
            is_error = (diagnosis.severity or rule.severity) is Severity.ERROR
            is_calm = is_error and rule_match.message.level in _CALM
            if is_calm is not calm or (is_calm and not server_state.failed):
                continue
            finding = _finding(rule.id, rule.severity, diagnosis, counted.evidence, rule.sources)
            return finding, tuple(one.message.where.line for one in rule_matches)
        return None, ()

    @staticmethod
    def _has_cause(found: Iterable[Finding], server_state: ServerState) -> bool:
        """Whether a finding explains the first error, and is no consequence of it."""
        errors = [one.evidence.line for one in found if one.severity is Severity.ERROR]
        failure = server_state.failure
        if failure is None or failure.is_wrapper:
            return bool(errors)
        return any(line <= failure.where.line + _SAME_ERROR for line in errors)

    def _findings(self, start: _Start) -> Iterable[Finding]:
        # Rates are closed on a copy: the log may go on.
        server_state = replace(start.server_state, rates=copy.deepcopy(start.server_state.rates))
        server_state.rates.close(server_state.last.line)
        found: list[Finding] = []
        explained: set[int] = set()
        for calm in (False, True):  # a warning is a cause only where nothing that was raised is one
            for rule in sorted(knowledge().rules, key=lambda rule: rule.general):
                if (rule.general or calm) and self._has_cause(found, server_state):
                    continue
                finding, lines = self._judge(rule, start, server_state, calm=calm)
                if finding is not None:
                    found.append(finding)
                    explained.update(lines)
        server_state.explained = frozenset(explained)
        for state_rule in knowledge().state_rules:
            if state_rule.only_unexplained and self._has_cause(found, server_state):
                continue
            diagnosis = _look(state_rule, server_state)
            if diagnosis is not None:
                evidence = diagnosis.evidence or Evidence(server_state.last.line, "")
                found.append(
                    _finding(state_rule.id, state_rule.severity, diagnosis, evidence, state_rule.sources)
                )
        return found


def _was_survived(rule: Rule, rule_match: RuleMatch, diagnosis: Diagnosis, server_state: ServerState) -> bool:
    """Whether a line that means the end of a start in one log was followed by a ready server in this."""
    ready = server_state.ready
    if (diagnosis.severity or rule.severity) is not Severity.ERROR or rule_match.was_ready or ready is None:
        return False
    return rule_match.message.where.line < ready.line


def _explain(rule: Rule, rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    try:
        return rule.explain(rule_match, server_state)
    except (ArithmeticError, ValueError):
        return None  # a figure in the line is absurd: thousands of digits, a division by 0


def _look(rule: StateRule, server_state: ServerState) -> Diagnosis | None:
    try:
        return rule.look(server_state)
    except (ArithmeticError, ValueError):
        return None


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
