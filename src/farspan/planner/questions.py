"""The longest context, the most requests, the fewest GPUs: a search among plans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from farspan.errors import InputError
from farspan.planner.bisection import last_holding
from farspan.planner.load_time import NO_GOALS, NOT_MISSED, MissedTimes, TimeGoals
from farspan.planner.memory_model import MemoryModel
from farspan.planner.plan import check_request, plan_engine, valid_tps
from farspan.planner.request import EnginePlan, PlanRequest

MOST_GPUS = 64
MOST_REQUESTS = 2**16
_STAGES = (1, 2, 4, 8)
_GROUPS = (2, 4, 8, 16, 32, 64)


class Question(StrEnum):
    """What can be searched for."""

    CONTEXT = "context"  # the longest at the wanted concurrency
    CONCURRENCY = "concurrency"  # the most requests of the wanted context
    GPUS = "gpus"  # the fewest for the wanted context and concurrency


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer of one engine: `value` (0 when nothing fits) and the plan that gives it, or a refusal.

    `servers` servers of `tp` GPUs each are meant; the plan is one of them. `missed` says by what even the least that is
    asked misses the times that are to be kept, with nothing in it where that is not the reason.
    """

    engine: str
    question: Question
    value: int
    plan: EnginePlan | None
    refusal: str = ""
    tp: int = 0
    servers: int = 1
    missed: MissedTimes = NOT_MISSED


class Fleet(NamedTuple):
    """`servers` servers alike: `gpus` in all.

    Args:
        gpus: Of all servers.
        tp: Tensor-parallel ranks of a stage or of an attention group.
        servers: How many.
        pp: Pipeline stages of one.
        groups: Attention groups of one.
    """

    gpus: int
    tp: int
    servers: int
    pp: int = 1
    groups: int = 1


NO_FLEET = Fleet(0, 0, 0)


def search(
    request: PlanRequest, question: Question, engines: Iterable[MemoryModel], goals: TimeGoals = NO_GOALS
) -> list[SearchResult]:
    """Put one question to several engines; one engine's refusal does not stop the others.

    Raises:
        InputError: Only one engine was asked and it refuses.
    """
    asked, answers = list(engines), []
    for engine in asked:
        try:
            answers.append(_search_one(request, question, engine, goals))
        except InputError as error:
            if len(asked) == 1:
                raise
            answers.append(SearchResult(engine.name, question, 0, None, str(error)))
    return answers


def _search_one(
    request: PlanRequest, question: Question, engine: MemoryModel, goals: TimeGoals
) -> SearchResult:
    servers = 1
    if question is Question.CONTEXT:
        value = largest_context(request, engine, goals)
        answered = replace(request, context=value) if value else None
    elif question is Question.GPUS:
        fleet = fewest_gpus(request, engine, goals=goals)
        value, servers = fleet.gpus, fleet.servers
        each = -(-request.concurrency // max(1, servers))
        answered = replace(_shaped(request, engine, fleet), concurrency=each) if value else None
    else:
        value = largest_concurrency(request, engine, goals=goals)
        answered = replace(request, concurrency=value) if value else None
    plan = plan_engine(answered, engine) if answered else None
    return SearchResult(
        engine.name,
        question,
        value,
        plan,
        tp=answered.tp if answered else 0,
        servers=servers,
        missed=NOT_MISSED if answered else _find_missed(request, question, engine, goals),
    )


def _find_missed(
    request: PlanRequest, question: Question, engine: MemoryModel, goals: TimeGoals
) -> MissedTimes:
    """Say by what the least that a search could answer misses the times; nothing where it does not even fit."""
    if goals == NO_GOALS:
        return NOT_MISSED
    least = request
    if question is Question.CONTEXT:
        least = request.at(min(request.output_tokens + 1, request.model.max_position_embeddings))
    elif question is Question.CONCURRENCY:
        least = replace(request, concurrency=1)
    else:
        fleet = fewest_gpus(request, engine)
        if not fleet.gpus:
            return NOT_MISSED
        each = -(-request.concurrency // max(1, fleet.servers))
        least = replace(_shaped(request, engine, fleet), concurrency=each)
    plan = engine.outline(least)
    missed = goals.find_missed(least, plan) if plan.fits else NOT_MISSED
    if missed.words and question is Question.GPUS:
        words = f"it fits on {fleet.gpus}, but {missed.words}, and no more than {MOST_GPUS} are tried"
        return missed._replace(words=words)
    return missed


def _serves(request: PlanRequest, engine: MemoryModel, goals: TimeGoals) -> bool:
    plan = engine.outline(request)
    return plan.fits and goals.met_by(request, plan)


def largest_context(request: PlanRequest, engine: MemoryModel, goals: TimeGoals = NO_GOALS) -> int:
    """The longest context that fits `request.concurrency` times within the goals; 0 when not even a short one does.

    The server is planned with that context as its limit, so what it allocates for long contexts counts.
    """
    shortest = min(request.output_tokens + 1, request.model.max_position_embeddings)
    check_request(replace(request, context=shortest))
    # A longer context never needs less memory.
    longest = last_holding(
        shortest,
        request.model.max_position_embeddings,
        lambda context: _serves(request.at(context), engine, goals),
    )
    return longest if longest >= shortest else 0


def largest_concurrency(
    request: PlanRequest, engine: MemoryModel, most: int = MOST_REQUESTS, *, goals: TimeGoals = NO_GOALS
) -> int:
    """How many requests of `request.context` tokens run at once, up to `most`; 0 when none does.

    Each count is planned anew: an engine's plan may choose flags by how many requests are wanted.
    """
    check_request(replace(request, concurrency=1))

    def fits(count: int) -> bool:
        return _serves(replace(request, concurrency=count), engine, goals)

    high = 1
    while high < most and fits(high):
        high = min(2 * high, most)
    return last_holding(1, high, fits)


def fewest_gpus(
    request: PlanRequest, engine: MemoryModel, most: int = MOST_GPUS, *, goals: TimeGoals = NO_GOALS
) -> Fleet:
    """The fewest GPUs of this kind that do: one server, or several alike where one cannot hold all requests.

    Every tensor-parallel size the model's heads allow is tried, alone, with pipeline stages where the engine has them,
    and with data-parallel attention where engine and model have it; among equals one stage and one group win, then the
    fewest servers. Whole experts on each rank instead of slices take the same memory. No GPUs when `most` are not
    enough.

    Raises:
        InputError: The engine refuses the request at every size.
    """
    refusal, asked, best = None, False, NO_FLEET
    for shape in _shapes(request, engine, most):
        one = shape.gpus
        if one > (best.gpus or most):
            continue
        candidate = _shaped(request, engine, shape)
        try:
            check_request(candidate)
            held = largest_concurrency(candidate, engine, most=request.concurrency, goals=goals)
        except InputError as error:
            refusal = error
            continue
        asked = True
        servers = -(-request.concurrency // held) if held else 0
        found = shape._replace(gpus=one * servers, servers=servers)
        better = _order(found) <= _order(best)
        if servers and found.gpus <= most and (not best.gpus or better):
            best = found
    if refusal is not None and not asked:
        raise refusal
    return best


def _order(fleet: Fleet) -> tuple[int, int, int]:
    """What is better comes first: fewer GPUs, then fewer parts of one server, then fewer servers."""
    return fleet.gpus, fleet.pp * fleet.groups, fleet.servers


def _shapes(request: PlanRequest, engine: MemoryModel, most: int) -> Iterator[Fleet]:
    """Every shape of one server that is tried, of at most so many GPUs."""
    stages = _STAGES if engine.pipeline_flags and not request.has_flag(*engine.pipeline_flags) else (1,)
    sizes = valid_tps(request.model, most)
    for tp in sizes:
        for pp in stages:
            if tp * pp <= most and pp <= request.model.num_layers:
                yield Fleet(tp * pp, tp, 1, pp)
    if engine.pipeline_flags and request.has_flag(*engine.pipeline_flags):
        return
    for tp in sizes:
        for groups in _GROUPS:
            if tp * groups <= most and engine.grouped(request, tp, groups) is not None:
                yield Fleet(tp * groups, tp, 1, 1, groups)


def _shaped(request: PlanRequest, engine: MemoryModel, shape: Fleet) -> PlanRequest:
    """The request on one server of a shape."""
    if shape.groups > 1:
        grouped = engine.grouped(request, shape.tp, shape.groups)
        assert grouped is not None  # the shape is one of `_shapes`
        return grouped
    staged = replace(request, gpus=shape.tp * shape.pp, tp=shape.tp)
    if shape.pp == 1:
        return staged
    return staged.with_flags({**request.engine_flags, engine.pipeline_flags[0]: str(shape.pp)})
