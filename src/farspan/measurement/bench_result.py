"""The result of `farspan bench`: the outcome of every server measured, and which conditions it breaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farspan.measurement.analysis.breaches import Breach
from farspan.measurement.analysis.summary import summarise, summarise_engines
from farspan.measurement.options import BenchOptions
from farspan.measurement.runs.bench_outcome import BenchOutcome
from farspan.measurement.turns import list_turns


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One server measured, or several one after another.

    Args:
        options: What was measured.
        outcomes: By the name each server was given; a single server under an empty name.
        breaches: Which of the conditions hold somewhere, or cannot be judged.
    """

    options: BenchOptions
    outcomes: Mapping[str, BenchOutcome]
    breaches: tuple[Breach, ...] = ()

    @property
    def good(self) -> bool:
        """Whether every request was sent, answered and right, and no condition is breached."""
        return not self.breaches and all(outcome.good for outcome in self.outcomes.values())

    @property
    def exit_code(self) -> int:
        """0 when good; 2 when a server answered no request at all, else 1."""
        return max(int(bool(self.breaches)), *(outcome.exit_code for outcome in self.outcomes.values()))

    def to_json(self) -> dict[str, Any]:
        """Every request, every point and every kind of failure, as plain data."""
        options = self.options
        summaries = {
            name: summarise(outcome, percentiles=options.percentiles, goodput=options.goodput)
            | {"turns": [point.to_json() for point in list_turns(outcome.results)]}
            for name, outcome in self.outcomes.items()
        }
        return summaries[""] if "" in summaries else summarise_engines(summaries)
