"""What happened when: one entry a phase of each start, and the incidents between."""

from __future__ import annotations

import time
from dataclasses import dataclass

from farspan.engines.logs.records import STARTUP, Progress, StartPhase

_YEARLESS_BEFORE = 315_532_800  # 1980: timestamps without a year are kept in the 1970s


@dataclass(slots=True)
class Entry:
    """One phase, or one incident.

    Args:
        phase: Which.
        line: Its first line.
        process: The process that wrote it.
        at: Seconds since the epoch by the log's clock when it began, None when no line so far had a time.
        ended_at: When it ended, likewise.
        took_s: How long it took by the engine's own figure (the slowest process), None when it gives none.
        gib: Memory it took on one GPU (the largest), None when it does not say.
        percent: The last progress seen.
        done: Whether its end was seen.
        text: Its last message.
        bar: The last line of its progress bar; empty when it has none.
    """

    phase: StartPhase
    line: int
    process: str
    at: float | None
    ended_at: float | None = None
    took_s: float | None = None
    gib: float | None = None
    percent: float | None = None
    done: bool = False
    text: str = ""
    bar: str = ""

    @property
    def seconds(self) -> float | None:
        """How long it took: the engine's own figure, else by timestamps."""
        if self.took_s is not None:
            return self.took_s
        if self.at is None or self.ended_at is None or not self.done:
            return None
        return max(self.ended_at - self.at, 0.0)


class Timeline:
    """Folds progress events of all processes into one entry a phase. Of endings only the first of a kind stays."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._now: float | None = None

    def see(self, event: Progress, at: float | None) -> None:
        """Take in one event; `at` is the last time known, for lines without one."""
        entry = next((one for one in self.entries if one.phase is event.phase), None)
        if entry is None:
            entry = Entry(event.phase, event.where.line, event.where.process, at)
            self.entries.append(entry)
        elif event.phase in (StartPhase.READY, StartPhase.DIED, StartPhase.SHUTDOWN):
            return
        entry.text = event.text or entry.text
        if at is not None:
            entry.ended_at = at
        if event.percent is not None:
            entry.percent = event.percent
            entry.bar = event.text
        if event.seconds is not None:
            entry.took_s = max(entry.took_s or 0.0, event.seconds)
        if event.gib is not None:
            entry.gib = max(entry.gib if entry.gib is not None else event.gib, event.gib)
        entry.done = entry.done or event.done

    def finish(self) -> list[Entry]:
        """The entries in log order. A startup phase that has a later one after it is over, whatever it said."""
        found = sorted(self.entries, key=lambda entry: entry.line)
        order = {phase: number for number, phase in enumerate(STARTUP)}
        reached = max((order[entry.phase] for entry in found if entry.phase in order), default=-1)
        for entry in found:
            if order.get(entry.phase, reached) < reached:
                entry.done = True
        return found


def clock(at: float | None) -> str:
    """A log's time as the log writes it: without a year where it had none; empty when there is none."""
    if at is None:
        return ""
    try:
        parts = time.gmtime(at)
    except (OverflowError, ValueError, OSError):
        return ""
    return time.strftime("%m-%d %H:%M:%S" if at < _YEARLESS_BEFORE else "%Y-%m-%d %H:%M:%S", parts)
