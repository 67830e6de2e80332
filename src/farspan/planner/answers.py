"""What `farspan plan` answers: one context, several, or a search; each with its plans and as a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from farspan.planner.load_time import NO_GOALS, TimeGoals

if TYPE_CHECKING:
    from farspan.planner.document import PlanDocument
    from farspan.planner.levers import Fix
    from farspan.planner.questions import Question, SearchResult
    from farspan.planner.request import EnginePlan, PlanRequest
    from farspan.planner.sweep import SweepPoint


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """One context on one or several engines.

    Args:
        request: What was asked.
        model_name: The model as the engines' commands name it.
        plans: The engines that planned it.
        refusals: Those that refuse it, and why.
        fixes: By engine, what helps where it does not fit.
        goals: Times to stay within.
    """

    request: PlanRequest
    model_name: str
    plans: tuple[EnginePlan, ...]
    refusals: Mapping[str, str]
    fixes: Mapping[str, Fix]
    goals: TimeGoals = NO_GOALS

    @property
    def fits(self) -> bool:
        """Whether one of the engines serves it, within the goals where there are any."""
        return any(plan.fits and self.goals.met_by(self.request, plan) for plan in self.plans)

    def __getitem__(self, engine: str) -> EnginePlan:
        """The plan of one engine.

        Raises:
            KeyError: It was not asked, or refuses; `refusals` says why.
        """
        for plan in self.plans:
            if plan.engine == engine:
                return plan
        raise KeyError(engine)

    @property
    def document(self) -> PlanDocument:
        """The answer as a document."""
        from farspan.planner.build_document import build_plan

        return build_plan(self.request, self.plans, self.refusals, self.fixes)

    def to_json(self) -> dict[str, Any]:
        """The document as JSON values."""
        return self.document.to_json()


@dataclass(frozen=True, slots=True)
class SweepAnswer:
    """Several contexts on one or several engines.

    Args:
        request: What was asked; its context is that of no point.
        points: One entry a context and engine.
        fixes: By engine, what makes the shortest context fit that does not.
    """

    request: PlanRequest
    points: tuple[SweepPoint, ...]
    fixes: Mapping[str, Fix]

    @property
    def fits(self) -> bool:
        """Whether every context is served by one of the engines."""
        return {point.context for point in self.points if point.fits} == {
            point.context for point in self.points
        }

    @property
    def document(self) -> PlanDocument:
        """The answer as a document."""
        from farspan.planner.build_document import build_sweep

        return build_sweep(self.request, self.points)

    def to_json(self) -> dict[str, Any]:
        """The document as JSON values."""
        return self.document.to_json()


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The longest context, the most requests or the fewest GPUs; for one kind of GPU or several.

    Args:
        question: What was searched for.
        found: For each kind of GPU the request and one answer an engine.
    """

    question: Question
    found: tuple[tuple[PlanRequest, tuple[SearchResult, ...]], ...]

    @property
    def fits(self) -> bool:
        """Whether anything was found."""
        return any(result.value for _, results in self.found for result in results)

    @property
    def document(self) -> PlanDocument:
        """The answer as a document."""
        from farspan.planner.build_document import build_search, build_search_by_gpu

        searches = {
            request.gpu.name: build_search(request, self.question, results) for request, results in self.found
        }
        if len(self.found) == 1:
            return next(iter(searches.values()))
        return build_search_by_gpu(self.question, searches)

    def to_json(self) -> dict[str, Any]:
        """The document as JSON values."""
        return self.document.to_json()
