"""What a chart needs to know of a run, or of a plan that no run belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from farspan.measurement.runs.result import Result
from farspan.reports.expectation import Expectation


class Series(Protocol):
    """A series of a chart: a run with its requests, a plan, or both."""

    @property
    def key(self) -> str:
        """`a`, `b`, ...: its name in drawings."""

    @property
    def name(self) -> str:
        """What tells it from the others."""

    @property
    def results(self) -> Sequence[Result]:
        """Its measured requests."""

    @property
    def plan(self) -> Expectation | None:
        """What was planned."""
