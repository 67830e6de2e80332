"""What to change when it does not fit: every lever with the bytes it frees, cheapest for the user first.

A lever is a changed request; what it frees is found by planning that request, never by a formula of its own.
Levers are compared with exactly what was given: flags a plan would add by itself are levers like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from farspan.engines.vllm.flags import CHUNKED_HYBRID_ENV, DISABLE_HYBRID
from farspan.engines.vllm.versions import rules_for
from farspan.errors import InputError
from farspan.models.spec import AttentionKind, KvDtype
from farspan.models.weights import offloadable_bytes, with_fp8_weights
from farspan.planner.bisection import last_holding
from farspan.planner.ledger import LedgerPhase
from farspan.planner.plan import check_request, engine_outliner, engine_planner, valid_tps
from farspan.planner.request import EnginePlan, PlanRequest
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


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A change that may apply: `apply` returns the changed request, or None where it makes no sense."""

    change: str
    costs: str
    engines: tuple[str, ...]
    apply: Callable[[PlanRequest], PlanRequest | None]


def _with_flags(
    request: PlanRequest, add: Mapping[str, str | None], drop: tuple[str, ...] = ()
) -> PlanRequest:
    kept = {name: value for name, value in request.engine_flags.items() if name not in drop}
    return request.with_flags({**kept, **add})


def _set(name: str, value: str | None, *spellings: str) -> Callable[[PlanRequest], PlanRequest | None]:
    """Set one flag, dropping its other spellings; nothing to do when it has that value already."""

    def apply(request: PlanRequest) -> PlanRequest | None:
        if request.has_flag(name) and request.engine_flags[name] == value:
            return None
        return _with_flags(request, {name: value}, spellings)

    return apply


def _hybrid_groups(request: PlanRequest) -> PlanRequest | None:
    """Hybrid KV groups on: without the flag that turns them off, with the variable some versions need."""
    rules, _ = rules_for(request.engine_version, accept_nearest=request.accept_nearest_version)
    add: dict[str, str | None] = {}
    chunked = any(True for _ in request.model.layers_of(AttentionKind.CHUNKED_LOCAL))
    value = request.engine_flags.get(CHUNKED_HYBRID_ENV, "1" if rules.chunked_hybrid_default else "0")
    if chunked and value != "1":
        add = {CHUNKED_HYBRID_ENV: "1"}
    if not add and not request.has_flag(DISABLE_HYBRID):
        return None
    return _with_flags(request, add, (DISABLE_HYBRID,))


def _lower(name: str, value: int, default: int) -> Callable[[PlanRequest], PlanRequest | None]:
    """Lower a whole-number flag to `value`, unless it is there already."""

    def apply(request: PlanRequest) -> PlanRequest | None:
        if request.int_flag(default, name) <= value:
            return None
        return _with_flags(request, {name: str(value)})

    return apply


def _rows(request: PlanRequest) -> PlanRequest | None:
    """As many request rows as are wanted at once, and no fewer than 8."""
    wanted = max(8, request.concurrency)
    if (
        request.has_flag("--max-running-requests")
        and request.int_flag(wanted, "--max-running-requests") <= wanted
    ):
        return None
    return _with_flags(request, {"--max-running-requests": str(wanted)})


def _fp8_kv(request: PlanRequest) -> PlanRequest | None:
    if request.kv_dtype.is_fp8 or request.has_flag("--kv-cache-dtype"):
        return None
    return replace(request, kv_dtype=KvDtype.FP8_E4M3)


def _fraction(name: str, value: float) -> Callable[[PlanRequest], PlanRequest | None]:
    def apply(request: PlanRequest) -> PlanRequest | None:
        if request.available_kv_bytes is not None:
            return None
        if request.has_flag(name) and request.float_flag(value, name) >= value:
            return None
        return _with_flags(request, {name: f"{value:.2f}"})

    return apply


def _fp8_weights(request: PlanRequest) -> PlanRequest | None:
    """A checkpoint in FP8, where the model is not quantized already."""
    if request.model.quantization is not None:
        return None
    return replace(request, model=with_fp8_weights(request.model), available_kv_bytes=None)


def _more_ranks(request: PlanRequest) -> PlanRequest | None:
    """The next larger tensor-parallel size the GPUs at hand allow."""
    larger = [tp for tp in valid_tps(request, request.gpus) if tp > request.tp]
    return replace(request, tp=larger[0], available_kv_bytes=None) if larger else None


def _more_gpus(request: PlanRequest) -> PlanRequest | None:
    """Twice the GPUs, all in one tensor-parallel group."""
    tp = 2 * max(request.tp, request.gpus)
    return replace(request, gpus=tp, tp=tp, available_kv_bytes=None)


def _offload(engine: str) -> Callable[[PlanRequest], PlanRequest | None]:
    """The fewest whole GiB of weights in RAM with which it fits; all of the layers' where none do."""

    def apply(request: PlanRequest) -> PlanRequest | None:
        most = offloadable_bytes(request.model, request.tp) // GIB
        if request.has_flag("--cpu-offload-gb") or request.available_kv_bytes is not None or most < 1:
            return None
        outline = engine_outliner(engine)

        def offloading(gib: int) -> PlanRequest:
            return _with_flags(request, {"--cpu-offload-gb": str(gib)})

        too_few = last_holding(1, most - 1, lambda gib: not outline(offloading(gib)).fits)
        return offloading(too_few + 1)

    return apply


def _without_images(request: PlanRequest) -> PlanRequest | None:
    if not request.model.has_vision or request.has_flag("--limit-mm-per-prompt", "--language-model-only"):
        return None
    return _with_flags(request, {"--limit-mm-per-prompt": '{"image": 0}'})


def _newest(request: PlanRequest) -> PlanRequest | None:
    return replace(request, engine_version="") if request.engine_version else None


_BOTH, _VLLM, _SGLANG = ("vllm", "sglang"), ("vllm",), ("sglang",)
# In order of what they cost the user: nothing, then speed, then exactness, then money.
_CANDIDATES = (
    _Candidate("hybrid KV groups on", "nothing", _VLLM, _hybrid_groups),
    _Candidate("--max-running-requests 8", "fewer requests at once", _SGLANG, _rows),
    _Candidate(
        "--swa-full-tokens-ratio 0.05",
        "fewer short requests at once",
        _SGLANG,
        _set("--swa-full-tokens-ratio", "0.05"),
    ),
    _Candidate(
        "--hybrid-kvcache-ratio 1",
        "nothing, but no prompt may be larger than the window pool",
        _SGLANG,
        _set("--hybrid-kvcache-ratio", "1"),
    ),
    _Candidate("the newest version of the engine", "an upgrade", _BOTH, _newest),
    _Candidate(
        "--max-num-batched-tokens 2048",
        "slower prefill",
        _VLLM,
        _lower("--max-num-batched-tokens", 2048, 8192),
    ),
    _Candidate("--max-num-seqs 8", "fewer requests at once", _VLLM, _lower("--max-num-seqs", 8, 256)),
    _Candidate(
        "--gpu-memory-utilization 0.94",
        "less room for spikes: 0.95 was seen to run out while warming up",
        _VLLM,
        _fraction("--gpu-memory-utilization", 0.94),
    ),
    _Candidate(
        "--mem-fraction-static 0.90",
        "less room for activations",
        _SGLANG,
        _fraction("--mem-fraction-static", 0.9),
    ),
    _Candidate("no images: --limit-mm-per-prompt '{\"image\": 0}'", "images", _VLLM, _without_images),
    _Candidate("--disable-radix-cache", "no reuse of prefixes", _SGLANG, _set("--disable-radix-cache", None)),
    _Candidate("--enforce-eager", "slower decode", _VLLM, _set("--enforce-eager", None)),
    _Candidate("--disable-cuda-graph", "slower decode", _SGLANG, _set("--disable-cuda-graph", None)),
    _Candidate("--kv-cache-dtype fp8_e4m3", "some exactness in long recall", (*_BOTH, "builtin"), _fp8_kv),
    _Candidate("--cpu-offload-gb", "every step reads that much over PCIe", _VLLM, _offload("vllm")),
    _Candidate("--cpu-offload-gb", "every step copies that much over PCIe", _SGLANG, _offload("sglang")),
    _Candidate(
        "--weights fp8",
        "another checkpoint, some exactness everywhere",
        _BOTH,
        _fp8_weights,
    ),
    _Candidate(
        "more tensor-parallel ranks",
        "fewer replicas on the same GPUs",
        (*_BOTH, "builtin"),
        _more_ranks,
    ),
    _Candidate("twice the GPUs", "twice the GPUs", (*_BOTH, "builtin"), _more_gpus),
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


def levers(request: PlanRequest, plan: EnginePlan) -> tuple[Lever, ...]:
    """Every change that helps, in order of what it costs the user; those that free nothing are left out."""
    found = (_pull(rank, request, plan) for rank in range(len(_CANDIDATES)))
    return tuple(lever for lever in found if lever is not None)


def _pull(rank: int, request: PlanRequest, plan: EnginePlan) -> Lever | None:
    """One lever pulled, or None where it does not apply, is refused, or does not help."""
    candidate = _CANDIDATES[rank]
    if plan.engine not in candidate.engines:
        return None
    changed = candidate.apply(request)
    if changed is None:
        return None
    try:
        check_request(changed)
        after = engine_planner(plan.engine)(changed)
    except InputError:
        return None
    freed = bytes_freed(plan, after, request.concurrency)
    if freed <= 0 and not (after.fits and not plan.fits):
        return None
    return Lever(
        rank=rank,
        change=_words(candidate, changed),
        costs=candidate.costs,
        bytes_freed=freed,
        capacity_tokens=after.capacity_tokens,
        fits=after.fits,
        request=changed,
        plan=after,
    )


def _words(candidate: _Candidate, changed: PlanRequest) -> str:
    if candidate.apply is _more_ranks:
        return f"--tp {changed.tp}"
    if candidate.apply is _more_gpus:
        return f"--gpus {changed.gpus}x{changed.gpu.name} --tp {changed.tp}"
    if candidate.apply is _hybrid_groups:
        variable = CHUNKED_HYBRID_ENV in changed.engine_flags
        return f"hybrid KV groups on ({f'{CHUNKED_HYBRID_ENV}=1' if variable else f'no {DISABLE_HYBRID}'})"
    if candidate.change == "--cpu-offload-gb":
        return f"--cpu-offload-gb {changed.int_flag(0, '--cpu-offload-gb')}"
    if candidate.apply is _rows:
        return f"--max-running-requests {changed.int_flag(8, '--max-running-requests')}"
    return candidate.change


@dataclass(frozen=True, slots=True)
class Fix:
    """All levers that help, each alone, and those to pull together so that the request fits (none when none
    do)."""

    levers: tuple[Lever, ...]
    pull: tuple[Lever, ...]


def find_fix(request: PlanRequest, plan: EnginePlan) -> Fix:
    """What to change about a plan that does not fit with exactly what was given. One that fits with what it
    adds by itself needs no levers pulled."""
    given = replace(request, as_given=True)
    bare = engine_planner(plan.engine)(given) if plan.added else plan
    return Fix(levers(given, bare), () if plan.fits else cheapest_fix(given, bare))


def cheapest_fix(request: PlanRequest, plan: EnginePlan) -> tuple[Lever, ...]:
    """The levers to pull one after the other until the request fits; empty when none of them do it.

    The cheapest that helps is pulled until the request fits, in a second round if need be: some help only
    after others. Then, the dearest first, each one that turns out not to be needed is left alone. Where that
    leads nowhere, one lever that does it alone will.
    """
    ranks: list[int] = []
    state, now = request, plan
    for rank in (*range(len(_CANDIDATES)), *range(len(_CANDIDATES))):
        lever = None if now.fits or rank in ranks else _pull(rank, state, now)
        if lever is not None:
            ranks.append(rank)
            state, now = lever.request, lever.plan
    if not now.fits:
        alone = (_pull(rank, request, plan) for rank in range(len(_CANDIDATES)))
        return next(((lever,) for lever in alone if lever is not None and lever.fits), ())
    for rank in reversed(ranks.copy()):
        fewer = [other for other in ranks if other != rank]
        pulled = _pull_all(fewer, request, plan)
        if pulled and pulled[-1].fits:
            ranks = fewer
    return _pull_all(ranks, request, plan)


def _pull_all(ranks: Iterable[int], request: PlanRequest, plan: EnginePlan) -> tuple[Lever, ...]:
    """Levers pulled in order, each on top of those before it; what does not help there is left out."""
    pulled = []
    for rank in ranks:
        lever = _pull(rank, request, plan)
        if lever is not None:
            pulled.append(lever)
            request, plan = lever.request, lever.plan
    return tuple(pulled)
