"""What to change when it does not fit: every lever with the bytes it frees, cheapest for the user first.

A lever is a changed request; what it frees is found by planning that request, never by a formula of its own.
Levers are compared with exactly what was given: flags a plan would add by itself are levers like any other. Which
there are, and in which order, each engine says (`engines/*/levers.py`); those that mean the same on several engines are
made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from farspan.errors import InputError
from farspan.models.spec import KvDtype
from farspan.models.weights import offloadable_bytes, with_fp8_weights
from farspan.planner.bisection import last_holding
from farspan.planner.ledger import LedgerPhase
from farspan.planner.lever_candidate import Change, LeverCandidate
from farspan.planner.memory_model import MemoryModel
from farspan.planner.plan import check_request, valid_tps
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.weights_fit import fewest_ranks
from farspan.sizes import GIB


@dataclass(frozen=True, slots=True)
class Lever:
    """One change and what it gives.

    Args:
        rank: Its place in the order of cost.
        change: What to do, as flags where it is flags.
        costs: What the user pays.
        bytes_freed: Bytes a GPU more for the request: less taken outside the pool, a larger pool, or fewer
            bytes a request; negative when the change makes it worse.
        capacity_tokens: Longest single request after the change.
        fits: Whether the request fits after this change alone.
        request: The changed request.
        plan: Its plan.
    """

    rank: int
    change: str
    costs: str
    bytes_freed: int
    capacity_tokens: int
    fits: bool
    request: PlanRequest
    plan: EnginePlan


def with_flags(
    request: PlanRequest, add: Mapping[str, str | None], drop: tuple[str, ...] = ()
) -> PlanRequest:
    """The same request with flags set, and others dropped."""
    kept = {name: value for name, value in request.engine_flags.items() if name not in drop}
    return request.with_flags({**kept, **add})


def set_flag(name: str, value: str | None) -> Change:
    """Set one flag; nothing to do when it has that value already."""

    def apply(request: PlanRequest) -> PlanRequest | None:
        if request.has_flag(name) and request.engine_flags[name] == value:
            return None
        return with_flags(request, {name: value})

    return apply


def drop_shorter_context(*names: str) -> LeverCandidate:
    """Drop the flag that limits a request to fewer tokens than are asked for."""

    def apply(request: PlanRequest) -> PlanRequest | None:
        text = request.text_flag("", *names)
        too_short = text.isdecimal() and int(text) < request.context
        return with_flags(request, {}, drop=names) if too_short else None

    return LeverCandidate(f"without {names[0]}, which is below the tokens asked for", "nothing", apply)


def lower_flag(name: str, value: int, default: int) -> Change:
    """Lower a whole-number flag to `value`, unless it is there already."""

    def apply(request: PlanRequest) -> PlanRequest | None:
        if request.int_flag(default, name) <= value:
            return None
        return with_flags(request, {name: str(value)})

    return apply


def raise_fraction(name: str, value: float) -> Change:
    """Raise the share of the GPU's memory an engine may take to `value`."""

    def apply(request: PlanRequest) -> PlanRequest | None:
        if request.available_kv_bytes is not None:
            return None
        if request.has_flag(name) and request.float_flag(value, name) >= value:
            return None
        return with_flags(request, {name: f"{value:.2f}"})

    return apply


def _fp8_kv(request: PlanRequest) -> PlanRequest | None:
    if request.kv_dtype.is_fp8 or request.has_flag("--kv-cache-dtype"):
        return None
    return replace(request, kv_dtype=KvDtype.FP8_E4M3)


def _fp8_weights(request: PlanRequest) -> PlanRequest | None:
    """A checkpoint in FP8, where the model is not quantized already."""
    if request.model.quantization is not None:
        return None
    return replace(request, model=with_fp8_weights(request.model), available_kv_bytes=None)


def _more_ranks(request: PlanRequest) -> PlanRequest | None:
    """The next larger tensor-parallel size the GPUs at hand allow."""
    larger = [tp for tp in valid_tps(request.model, request.gpus) if tp > request.tp]
    return replace(request, tp=larger[0], available_kv_bytes=None) if larger else None


def _more_gpus(request: PlanRequest) -> PlanRequest | None:
    """Twice the GPUs, or as many as hold the weights, all in one tensor-parallel group."""
    tp = max(2 * max(request.tp, request.gpus), fewest_ranks(request.model, request.gpu))
    return replace(request, gpus=tp, tp=tp, available_kv_bytes=None)


def _newest(request: PlanRequest) -> PlanRequest | None:
    return replace(request, engine_version="") if request.engine_version else None


def offload_weights(costs: str, outline: Callable[[PlanRequest], EnginePlan]) -> LeverCandidate:
    """The fewest whole GiB of weights in RAM with which it fits; all of the layers' where none do.

    Args:
        costs: What the user pays.
        outline: Plans the engine whose `--cpu-offload-gb` it is.
    """

    def apply(request: PlanRequest) -> PlanRequest | None:
        most = offloadable_bytes(request.model, request.tp) // GIB
        if request.has_flag("--cpu-offload-gb") or request.available_kv_bytes is not None or most < 1:
            return None

        def offloading(gib: int) -> PlanRequest:
            return with_flags(request, {"--cpu-offload-gb": str(gib)})

        too_few = last_holding(1, most - 1, lambda gib: not outline(offloading(gib)).fits)
        return offloading(too_few + 1)

    return LeverCandidate(
        "--cpu-offload-gb",
        costs,
        apply,
        lambda changed: f"--cpu-offload-gb {changed.int_flag(0, '--cpu-offload-gb')}",
    )


NEWEST_VERSION = LeverCandidate("the newest version of the engine", "an upgrade", _newest)
FP8_KV = LeverCandidate("--kv-cache-dtype fp8_e4m3", "some exactness in long recall", _fp8_kv)
FP8_WEIGHTS = LeverCandidate("--weights fp8", "another checkpoint, some exactness everywhere", _fp8_weights)
MORE_RANKS = LeverCandidate(
    "more tensor-parallel ranks",
    "fewer replicas on the same GPUs",
    _more_ranks,
    lambda changed: f"--tp {changed.tp}",
)
MORE_GPUS = LeverCandidate(
    "more GPUs",
    "more GPUs",
    _more_gpus,
    lambda changed: f"--gpus {changed.gpus}x{changed.gpu.name} --tp {changed.tp}",
)


def _outside_pool(plan: EnginePlan) -> int:
    """Bytes on the GPU that are not the KV pool."""
    pool = plan.ledger.phase_bytes(LedgerPhase.POOL)
    return plan.ledger.gpu_bytes - min(pool, plan.available_kv_bytes)


def bytes_freed(before: EnginePlan, after: EnginePlan, concurrency: int) -> int:
    """Bytes a GPU that a change gives the wanted requests.

    Either the pool grew or what stands beside it shrank (one byte is not counted twice), and a request may
    need less of the pool: the pool over the requests it holds is what one request takes.
    """
    grown = after.available_kv_bytes - before.available_kv_bytes
    shrunk = _outside_pool(before) - _outside_pool(after)
    room = max(grown, shrunk) if grown >= 0 else grown
    if before.max_concurrency <= 0 or after.max_concurrency <= 0:
        return room
    each_before = before.available_kv_bytes / before.max_concurrency
    each_after = after.available_kv_bytes / after.max_concurrency
    return room + round((each_before - each_after) * concurrency)


def levers(request: PlanRequest, plan: EnginePlan, engine: MemoryModel) -> tuple[Lever, ...]:
    """Every change that helps, in order of what it costs the user; those that free nothing are left out."""
    found = (_pull(rank, request, plan, engine) for rank in range(len(engine.levers())))
    return tuple(lever for lever in found if lever is not None)


def _pull(rank: int, request: PlanRequest, plan: EnginePlan, engine: MemoryModel) -> Lever | None:
    """One lever pulled, or None where it does not apply, is refused, or does not help."""
    candidate = engine.levers()[rank]
    changed = candidate.apply(request)
    if changed is None:
        return None
    try:
        check_request(changed)
        after = engine.plan(changed)
    except InputError:
        return None
    freed = bytes_freed(plan, after, request.concurrency)
    if freed <= 0 and not (after.fits and not plan.fits):
        return None
    return Lever(
        rank=rank,
        change=candidate.words(changed),
        costs=candidate.costs,
        bytes_freed=freed,
        capacity_tokens=after.capacity_tokens,
        fits=after.fits,
        request=changed,
        plan=after,
    )


@dataclass(frozen=True, slots=True)
class Fix:
    """All levers that help, each alone, and those to pull together so that the request fits (none when none
    do)."""

    levers: tuple[Lever, ...]
    pull: tuple[Lever, ...]


def find_fix(request: PlanRequest, plan: EnginePlan, engine: MemoryModel) -> Fix:
    """What to change about a plan that does not fit with exactly what was given. One that fits with what it
    adds by itself needs no levers pulled."""
    given = replace(request, as_given=True)
    bare = engine.plan(given) if plan.added else plan
    return Fix(levers(given, bare, engine), () if plan.fits else cheapest_fix(given, bare, engine))


def cheapest_fix(request: PlanRequest, plan: EnginePlan, engine: MemoryModel) -> tuple[Lever, ...]:
    """The levers to pull one after the other until the request fits; empty when none of them do it.

    The cheapest that helps is pulled until the request fits, in a second round if need be: some help only
    after others. Then, the dearest first, each one that turns out not to be needed is left alone. Where that
    leads nowhere, one lever that does it alone will.
    """
    every = range(len(engine.levers()))
    ranks: list[int] = []
    state, now = request, plan
    for rank in (*every, *every):
        lever = None if now.fits or rank in ranks else _pull(rank, state, now, engine)
        if lever is not None:
            ranks.append(rank)
            state, now = lever.request, lever.plan
    if not now.fits:
        alone = (_pull(rank, request, plan, engine) for rank in every)
        return next(((lever,) for lever in alone if lever is not None and lever.fits), ())
    for rank in reversed(ranks.copy()):
        fewer = [other for other in ranks if other != rank]
        pulled = _pull_all(fewer, request, plan, engine)
        if pulled and pulled[-1].fits:
            ranks = fewer
    return _pull_all(ranks, request, plan, engine)


def _pull_all(
    ranks: Iterable[int], request: PlanRequest, plan: EnginePlan, engine: MemoryModel
) -> tuple[Lever, ...]:
    """Levers pulled in order, each on top of those before it; what does not help there is left out."""
    pulled = []
    for rank in ranks:
        lever = _pull(rank, request, plan, engine)
        if lever is not None:
            pulled.append(lever)
            request, plan = lever.request, lever.plan
    return tuple(pulled)
