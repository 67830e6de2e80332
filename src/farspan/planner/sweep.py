"""Many contexts, one row each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from farspan.errors import InputError
from farspan.planner.memory_model import MemoryModel
from farspan.planner.plan import check_request
from farspan.planner.request import EnginePlan, PlanRequest


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One context on one engine: the plan, or why there is none."""

    context: int
    engine: str
    plan: EnginePlan | None
    refusal: str

    @property
    def fits(self) -> bool:
        """Whether the engine serves this context."""
        return self.plan is not None and self.plan.fits


def sweep(
    request: PlanRequest, contexts: Iterable[int], engines: Iterable[MemoryModel]
) -> Iterator[SweepPoint]:
    """Plan every context on every engine, without ledgers; a refusal of one does not stop the others."""
    asked = list(engines)
    for context in contexts:
        point = request.at(context)
        try:
            check_request(point)
        except InputError as error:
            yield from (SweepPoint(context, engine.name, None, str(error)) for engine in asked)
            continue
        for engine in asked:
            try:
                yield SweepPoint(context, engine.name, engine.outline(point), "")
            except InputError as error:
                yield SweepPoint(context, engine.name, None, str(error))
