"""What comes of a bench."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from farspan.measurement.http.client import Lag
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import RunInfo


@dataclass(frozen=True, slots=True)
class BenchOutcome:
    """A finished bench: every result the run folder holds, those of earlier starts included.

    Args:
        folder: The run folder.
        info: What was run.
        results: The latest result of every request, those that warm up and cool down included.
        skipped: How many requests were there already and not sent again.
        unsent: How many requests were left unsent.
        stopped: Why requests were left unsent or given up; empty when none were.
        loop_lag: How late this start's event loop was; None when nothing was sent.
        faults: What could not be observed in this start, one sentence each.
    """

    folder: Path
    info: RunInfo
    results: tuple[Result, ...]
    skipped: int
    unsent: int
    stopped: str
    loop_lag: Lag | None = None
    faults: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Result, ...]:
        """The requests that failed or were wrong."""
        return tuple(result for result in self.results if result.status is not Status.OK)

    @property
    def good(self) -> bool:
        """True when every request was sent, answered and right."""
        return not self.failed and not self.unsent

    @property
    def exit_code(self) -> int:
        """0 when good, 2 when no request was answered at all, 1 otherwise."""
        if self.good:
            return 0
        return 1 if any(result.status.answered for result in self.results) else 2
