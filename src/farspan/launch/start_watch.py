"""A start, watched through its log: which phase it is in, what the engine got, and why it will never be ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from farspan.diagnosis.diagnose import Doctor
from farspan.diagnosis.log_reader import LogReader
from farspan.diagnosis.rules.container import START_UNFINISHED
from farspan.engines.logs.findings import Finding, Severity
from farspan.engines.logs.records import StartPhase
from farspan.engines.logs.server_state import Hints
from farspan.errors import LaunchError
from farspan.launch.compared_figures import ComparedFigure, compare_printed
from farspan.launch.expected import ExpectedStart
from farspan.launch.readiness import Check, Watched, wait_ready
from farspan.planner.request import EnginePlan

_READ_BYTES = 8 * 2**20
_DYING_S = 20.0
# Exit statuses of a process that was killed from outside.
_KILLED = (-9, 137)
# The phases of the log reader by the names shown: some are too short, or too vague, for a line of their own.
_PHASE_NAMES = {
    StartPhase.CONFIG: "engine",
    StartPhase.ENGINE: "engine",
    StartPhase.DISTRIBUTED: "engine",
    StartPhase.WEIGHTS: "weights",
    StartPhase.COMPILE: "compile",
    StartPhase.PROFILE: "profile",
    StartPhase.KV: "profile",
    StartPhase.GRAPHS: "graphs",
}


class StartError(LaunchError):
    """A server did not start, and why, as far as its log tells.

    Args:
        message: What happened.
        fix: What to do about it.
        tail: The last lines of its log.
        findings: What the doctor found, the worst first.
    """

    exit_code = 1

    def __init__(
        self, message: str, fix: str = "", tail: tuple[str, ...] = (), findings: tuple[Finding, ...] = ()
    ) -> None:
        super().__init__(message, fix, tail)
        self.findings = findings

    @property
    def explained(self) -> bool:
        """Whether a finding says what the server failed over; if not, its last lines are all there is."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)


@dataclass(frozen=True, slots=True)
class PhaseView:
    """One phase of a start.

    Args:
        name: Its name.
        planned_s: How long it should take.
        took_s: How long it took, or has taken so far; None before it began.
        done: Whether it is over.
        percent: Progress, when the log says.
        rate: Bytes/s of weights; None elsewhere.
    """

    name: str
    planned_s: float
    took_s: float | None = None
    done: bool = False
    percent: float | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class StartReport:
    """A start that succeeded.

    Args:
        ready_s: From the start to the first answer.
        phases: Its phases.
        compared: What the engine got, beside the plan.
        findings: What the doctor has to say nevertheless.
    """

    ready_s: float
    phases: tuple[PhaseView, ...]
    compared: tuple[ComparedFigure, ...]
    findings: tuple[Finding, ...]


class StartupWatch:
    """Reads a starting server's log as it grows.

    Args:
        server: The server.
        expected: How long each phase should take.
        plan: What the engine should get; None when nothing was planned.
        hints: What the doctor cannot read in the log.
    """

    def __init__(
        self, server: Watched, expected: ExpectedStart, plan: EnginePlan | None, hints: Hints | None = None
    ) -> None:
        self._server = server
        self._expected = expected
        self._printed: Mapping[str, Any] = plan.printed if plan else {}
        self._reader = LogReader()
        self._doctor = Doctor(hints)
        self._offset = 0
        self._last_growth = 0.0
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._dying: float | None = None

    def read(self) -> None:
        """Read what the log has gained."""
        now = time.monotonic() - self._server.started
        while data := self._read_new():
            self._doctor.feed(self._reader.feed(data))
            self._last_growth = now
        self._note_phases(now)

    def finish(self) -> None:
        """Read the rest of the log, a last line without an end included."""
        self.read()
        self._doctor.feed(self._reader.close())

    def check(self) -> None:
        """Read on, and give up on a start that cannot succeed any more.

        Raises:
            LaunchError: The engine has died though a process of it lives on, or the log has stood still for longer
                than any phase may take.
        """
        self.read()
        now = time.monotonic() - self._server.started
        if self._doctor.server_state.died_itself:
            self._dying = self._dying if self._dying is not None else now
            if now - self._dying > _DYING_S:
                raise LaunchError(
                    "the engine has died, though a process of it lives on",
                    f"read its log, {self._server.log}",
                    self._server.tail(),
                )
        if self._last_growth and now - self._last_growth > self._expected.silence_s:
            still = now - self._last_growth
            raise LaunchError(
                f"the server hangs: its log has stood still for {still:.0f} s in phase {self.current}",
                f"read its log, {self._server.log}",
                self._server.tail(),
            )

    @property
    def waits_for(self) -> str:
        """What keeps the engine from starting at all, as its runtime says; empty once it writes a log."""
        return "" if self._last_growth else "".join(self._server.tail(1))

    @property
    def current(self) -> str:
        """The phase the start is in."""
        running = [name for name in self._began if name not in self._ended]
        return running[-1] if running else "engine"

    def phases(self) -> tuple[PhaseView, ...]:
        """Every phase, in order; those that take no time and were not seen are left out."""
        now = time.monotonic() - self._server.started
        entries = {
            _PHASE_NAMES[entry.phase]: entry
            for entry in self._doctor.report().timeline
            if entry.phase in _PHASE_NAMES
        }
        views = []
        for name, planned in self._expected.phases.items():
            began, ended, entry = self._began.get(name), self._ended.get(name), entries.get(name)
            if began is None:
                if planned:
                    views.append(PhaseView(name, planned))
                continue
            took = (ended if ended is not None else now) - began
            if ended is not None and entry is not None and entry.took_s is not None:
                took = entry.took_s
            percent = entry.percent if entry is not None and ended is None else None
            rate = None
            if name == "weights" and took > 0.5:
                share = 1.0 if ended is not None else (percent or 0.0) / 100
                rate = self._expected.weight_bytes * share / took if share else None
            views.append(PhaseView(name, planned, took, ended is not None, percent, rate))
        return tuple(views)

    def compared(self) -> tuple[ComparedFigure, ...]:
        """What the engine printed, beside what the plan said it would."""
        return compare_printed(self._expected.figures, self._printed, self._doctor.server_state.figures)

    def findings(self) -> tuple[Finding, ...]:
        """What the doctor has found so far, the worst first."""
        return self._doctor.report().findings

    def _read_new(self) -> bytes:
        try:
            with self._server.log.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_READ_BYTES)
        except OSError:
            return b""
        self._offset += len(data)
        return data

    def _note_phases(self, now: float) -> None:
        self._began.setdefault("engine", 0.0)
        names = list(self._expected.phases)
        seen = [
            (_PHASE_NAMES[entry.phase], entry.done)
            for entry in self._doctor.report().timeline
            if entry.phase in _PHASE_NAMES
        ]
        latest = max((names.index(name) for name, _ in seen), default=0)
        for name, done in seen:
            self._began.setdefault(name, now)
            if name in ("weights", "compile", "graphs") and done:
                self._ended.setdefault(name, now)
        for name in names[:latest]:
            if name in self._began:
                self._ended.setdefault(name, now)
        if self._doctor.server_state.ready is not None:
            for name in self._began:
                self._ended.setdefault(name, now)


async def await_start(
    server: Watched,
    check: Check,
    expected: ExpectedStart,
    plan: EnginePlan | None,
    *,
    hints: Hints | None = None,
    limit_s: float | None = None,
    on_change: Callable[[float, StartupWatch], None] | None = None,
    pause_s: float = 0.5,
) -> StartReport:
    """Wait until a server answers, reading its log the while.

    Args:
        server: The server.
        check: Says what is missing for an answer; empty when one token came back.
        expected: How long the start should take.
        plan: What the engine should get.
        hints: What the doctor cannot read in the log.
        limit_s: Longest wait in seconds; None for the expected start's own limit.
        on_change: Called after every check with the seconds so far and the watch.
        pause_s: Seconds between two checks.

    Raises:
        StartError: It died, hangs or took too long; with the doctor's findings.
    """
    watch = StartupWatch(server, expected, plan, hints)

    def look(seconds: float, line: str) -> None:  # noqa: ARG001
        watch.check()
        if on_change is not None:
            on_change(seconds, watch)

    try:
        ready_s = await wait_ready(
            server,
            check,
            limit_s=expected.limit_s if limit_s is None else limit_s,
            on_wait=look,
            pause_s=pause_s,
        )
    except LaunchError as error:
        watch.finish()
        ended = server.exit_status not in (None, *_KILLED)
        findings = tuple(
            found
            for found in watch.findings()
            if found.severity is not Severity.INFO and not (ended and found.id == START_UNFINISHED.id)
        )
        raise StartError(error.message, error.fix, error.tail or server.tail(), findings) from error
    watch.read()
    return StartReport(ready_s, watch.phases(), watch.compared(), watch.findings())
