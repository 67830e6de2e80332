"""A change that may make a request fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from farspan.planner.request import PlanRequest

Change = Callable[[PlanRequest], PlanRequest | None]


@dataclass(frozen=True, slots=True)
class LeverCandidate:
    """A change that may help.

    Args:
        change: What to do, as flags where it is flags.
        costs: What the user pays.
        apply: Returns the changed request, or None where the change makes no sense.
        describe: Words the change of a request `apply` returned, where `change` alone does not say it.
    """

    change: str
    costs: str
    apply: Change
    describe: Callable[[PlanRequest], str] | None = None

    def words(self, changed: PlanRequest) -> str:
        """The change that made a request, in words."""
        return self.describe(changed) if self.describe is not None else self.change
