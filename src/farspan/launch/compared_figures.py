"""Figures that an engine printed, beside those that its plan says it prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from farspan.engines.engine import StartFigure


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """A figure the engine printed beside the plan's."""

    what: str
    planned: float
    got: float

    @property
    def ratio(self) -> float:
        """What it got over what was planned."""
        return self.got / self.planned if self.planned else 0.0


def printed_value(figure: StartFigure, printed: Mapping[str, int | float | str]) -> float | None:
    """What a plan says the engine prints for a figure; None where it says nothing."""
    if not figure.printed:
        return None
    named = (value for key, value in printed.items() if key.startswith(figure.printed))
    planned = next(named, None)
    return None if planned is None else float(str(planned).split()[0])  # some plans say "27.80 GiB"


def compare_printed(
    figures: Iterable[StartFigure], printed: Mapping[str, int | float | str], logged: Mapping[str, float]
) -> tuple[ComparedFigure, ...]:
    """Compare the figures that a log has and a plan says will be printed.

    Args:
        figures: What the engine prints at start.
        printed: By the engine's words, what the plan says it prints.
        logged: By the log reader's names, what it printed.
    """
    rows = []
    for figure in figures:
        planned = printed_value(figure, printed)
        if figure.logged in logged and planned is not None:
            rows.append(ComparedFigure(figure.means, planned, logged[figure.logged]))
    return tuple(rows)
