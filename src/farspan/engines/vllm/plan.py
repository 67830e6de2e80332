"""What vLLM would do with a request, by version."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from farspan.engines.vllm.batch import BatchLimits, batch_limits, on_second_runner
from farspan.engines.vllm.budget import gib, kv_budget
from farspan.engines.vllm.flags import (
    CHUNKED_HYBRID_ENV,
    MAX_MODEL_LEN,
    MAX_NUM_SEQS,
    VllmFlags,
    read_flags,
)
from farspan.engines.vllm.hybrid import hybrid_state
from farspan.engines.vllm.kv_groups import GroupingError
from farspan.engines.vllm.layout import (
    default_block_size,
    kv_layout,
    prefix_caching,
    resolve_kv_dtype,
)
from farspan.engines.vllm.ledger import beside_tables
from farspan.engines.vllm.printed import SIZE_KEY, concurrency_key, size_tokens
from farspan.engines.vllm.refusals import refusal
from farspan.engines.vllm.state import VllmFrame, VllmState
from farspan.engines.vllm.tables import table_bytes
from farspan.engines.vllm.versions import RULES, VllmRules, rules_for
from farspan.engines.vllm.warnings import warnings
from farspan.hardware.gpu import Gpu
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.ledger import MemoryLedger
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.timing import estimate_time

# Fewer requests at once, tried in turn when the default's block tables would not fit beside the pool.
_FEWER_REQUESTS = (256, 64, 16, 8, 4, 2, 1)


class SettledServer(NamedTuple):
    """A settled server, why it does not start, and whether it holds what was asked."""

    state: VllmState
    refusal: str
    fits: bool


def _verdict(state: VllmState) -> SettledServer:
    request, why = state.request, refusal(state)
    fits = (
        not why
        and request.context <= state.max_model_len
        and state.limits.requests >= request.concurrency
        and state.holds >= request.concurrency
    )
    return SettledServer(state, why, fits)


def plan_vllm(request: PlanRequest) -> EnginePlan:
    """What vLLM would do with a request.

    Where a default keeps a request from fitting and an environment variable or `--max-num-seqs` cures it, the
    plan sets it and says so (not with `request.as_given`); a flag given by hand is never changed.

    Raises:
        InputError: Unknown version, a flag vLLM refuses or farspan does not mirror, a TP size the model does
            not allow, a kind of attention whose cache is not mirrored.
    """
    return _plan(request, outline=False)


def outline_vllm(request: PlanRequest) -> EnginePlan:
    """The same plan without ledger and warnings, several times as fast: for sweeps and searches.

    Raises:
        InputError: As `plan_vllm`.
    """
    return _plan(request, outline=True)


def _plan(request: PlanRequest, *, outline: bool) -> EnginePlan:
    rules, resolved = rules_for(request.engine_version, accept_nearest=request.accept_nearest_version)
    request.model.check_tp(request.tp)
    given = read_flags(request, rules)
    notes = (resolved.warning,) if resolved.warning else ()
    try:
        verdict = _settle(request, rules, given, allow_env=False)
        if not verdict.fits and verdict.state.frame.hybrid.env_decides and not request.as_given:
            other = _settle(request, rules, given, allow_env=True)
            verdict = (
                other if other.fits or other.state.frame.capacity > verdict.state.frame.capacity else verdict
            )
    except GroupingError as error:
        return _ungrouped(request, rules, given, str(error), notes)
    return _answer(verdict, notes, outline=outline)


def _settle(request: PlanRequest, rules: VllmRules, given: VllmFlags, *, allow_env: bool) -> SettledServer:
    """Settle flags, layers and budget; fewer requests at once when the defaults do not fit the card.

    A memory fraction given by hand is taken at its word, and so is `--max-num-seqs`.

    Raises:
        GroupingError: vLLM cannot group the layers.
    """
    state = _state(request, rules, given, allow_env=allow_env)
    by_hand = given.max_num_seqs is not None or given.gpu_memory_utilization is not None
    if state.lacking > 0 and not by_hand and not request.as_given:
        for requests in _FEWER_REQUESTS:
            if request.concurrency <= requests < state.limits.requests:
                smaller = _state(request, rules, given, allow_env=allow_env, requests=requests)
                if smaller.lacking <= 0:
                    state = smaller
                    break
    return _verdict(state)


@lru_cache(maxsize=1024)
def _frame(
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    version: str,
    given: VllmFlags,
    limits: BatchLimits,
    available_kv_bytes: int | None,
    allow_env: bool,
) -> VllmFrame:
    rules = RULES[version]
    hybrid = hybrid_state(model, given, rules, allow_env=allow_env)
    kv_dtype = resolve_kv_dtype(model, given.kv_dtype)
    block_size = given.block_size or default_block_size(model, gpu, kv_dtype, rules)
    prefix_cached = prefix_caching(model, given, rules)
    layout = kv_layout(
        model,
        rules,
        tp=tp,
        kv_dtype=kv_dtype,
        block_size=block_size,
        hybrid=hybrid.on,
        prefix_caching=prefix_cached,
    )
    budget = kv_budget(model, gpu, tp, limits, given, rules, available_kv_bytes)
    num_blocks = given.num_blocks or layout.num_blocks(budget.available)
    in_flight = limits.in_flight(rules)
    available = num_blocks * layout.bytes_per_block if given.num_blocks else budget.available
    printed = {"Model loading took": gib(budget.weights + budget.rope)}
    if available > 0 and num_blocks > 0:
        printed["Available KV cache memory"] = gib(budget.available)
    return VllmFrame(
        hybrid=hybrid,
        env_chosen=allow_env and hybrid.on and not rules.chunked_hybrid_default,
        kv_dtype=kv_dtype,
        block_size=block_size,
        prefix_caching=prefix_cached,
        layout=layout,
        budget=budget,
        num_blocks=num_blocks,
        available=available,
        in_flight=in_flight,
        capacity=layout.longest_request(num_blocks, in_flight),
        second_runner=on_second_runner(model, rules),
        beside_tables=beside_tables(layout, num_blocks, budget, graphs=not given.enforce_eager),
        printed=printed,
    )


def _state(
    request: PlanRequest, rules: VllmRules, given: VllmFlags, *, allow_env: bool, requests: int | None = None
) -> VllmState:
    model = request.model
    max_model_len = given.max_model_len or request.context
    if given.auto_max_model_len:
        max_model_len = model.max_position_embeddings
    default = batch_limits(given, request.gpu, max_model_len, rules)
    limits = default if requests is None else default._replace(requests=requests)
    frame = _frame(
        model, request.gpu, request.tp, rules.version, given, limits, request.available_kv_bytes, allow_env
    )
    if given.auto_max_model_len:
        longest = frame.layout.estimated_max_model_len(frame.available, max_model_len, frame.in_flight)
        max_model_len = longest or max_model_len
    return VllmState(
        request,
        rules,
        given,
        frame,
        max_model_len,
        limits,
        default.requests,
        table_bytes(frame.layout, max_model_len, limits.requests, second_runner=frame.second_runner),
        frame.layout.request_blocks(request.context, frame.in_flight),
    )


def _answer(verdict: SettledServer, notes: tuple[str, ...], *, outline: bool) -> EnginePlan:
    state = verdict.state
    request = state.request
    if not outline:
        notes = (*notes, *warnings(state, starts=not verdict.refusal))
    return EnginePlan(
        engine="vllm",
        version=state.rules.version,
        starts=not verdict.refusal,
        fits=verdict.fits,
        reason=verdict.refusal or _reason(state, fits=verdict.fits),
        weights_bytes=state.frame.budget.weights + state.frame.budget.rope,
        available_kv_bytes=max(state.frame.budget.available, 0),
        capacity_tokens=state.frame.capacity,
        max_concurrency=state.max_concurrency,
        printed=_printed(state, starts=not verdict.refusal),
        pools={"token slots": state.frame.num_blocks * state.layout.block_size},
        ledger=MemoryLedger((), request.gpu.memory_bytes) if outline else state.ledger(),
        flags=server_flags(state),
        env=_env(state),
        warnings=notes,
        time=estimate_time(
            request.model,
            request.gpu,
            tp=request.tp,
            engine="vllm",
            version=state.rules.version,
            prompt_tokens=max(1, request.context - request.output_tokens),
            output_tokens=request.output_tokens,
            kv_dtype=state.frame.kv_dtype,
        ),
        added=_added(state),
    )


def _reason(state: VllmState, *, fits: bool) -> str:
    """One sentence about a server that starts."""
    request = state.request
    if request.context > state.max_model_len:
        return f"{MAX_MODEL_LEN} {state.max_model_len} is below the {request.context:,} tokens asked for"
    if state.limits.requests < request.concurrency:
        return f"{MAX_NUM_SEQS} {state.limits.requests} is below {request.concurrency} requests"
    pool = f"{gib(state.frame.num_blocks * state.layout.bytes_per_block)} of KV cache"
    held = f"{state.max_concurrency:.2f} requests of {request.context:,} tokens"
    if fits:
        return f"{pool} holds {held}; the longest single request is {state.frame.capacity:,} tokens"
    if state.frame.capacity < request.context:
        return (
            f"{pool} holds one request of {state.frame.capacity:,} tokens, "
            f"{request.context - state.frame.capacity:,} fewer than asked for"
        )
    return f"{pool} holds {held}, not {request.concurrency}"


def _printed(state: VllmState, *, starts: bool) -> dict[str, int | float | str]:
    """The figures vLLM prints at start, by its own words; its refusal's estimate when it does not start."""
    frame, length = state.frame, state.max_model_len
    layout, available, in_flight = frame.layout, frame.available, frame.in_flight
    printed: dict[str, int | float | str] = dict(frame.printed)
    if available <= 0 or frame.num_blocks <= 0:
        return printed
    if not starts and not layout.passes_check(available, length, in_flight):
        estimate = layout.estimated_max_model_len(available, length, in_flight)
        return {**printed, "estimated maximum model length": estimate}
    same = length == state.request.context
    ratio = state.max_concurrency if same else layout.concurrency(frame.num_blocks, length, in_flight)
    printed[SIZE_KEY] = size_tokens(layout, frame.num_blocks, length, ratio)
    printed[concurrency_key(length)] = round(ratio, 2)
    return printed


def server_flags(state: VllmState) -> tuple[str, ...]:
    """The server's arguments, ready to paste, numbers in digits; flags given by hand are passed through."""
    words = ["--tensor-parallel-size", str(state.request.tp), MAX_MODEL_LEN, str(state.max_model_len)]
    if state.given.kv_dtype is not KvDtype.AUTO:
        words += ["--kv-cache-dtype", state.given.kv_dtype.value]
    if state.given.max_num_seqs is not None or state.requests_chosen:
        words += [MAX_NUM_SEQS, str(state.limits.requests)]
    return (*words, *state.given.passed_on)


def _env(state: VllmState) -> Mapping[str, str]:
    env = dict(state.given.env)
    return {**env, CHUNKED_HYBRID_ENV: "1"} if state.frame.env_chosen else env


def _added(state: VllmState) -> tuple[str, ...]:
    """What the plan sets though nobody asked for it."""
    added = [f"{CHUNKED_HYBRID_ENV}=1"] if state.frame.env_chosen else []
    if state.requests_chosen:
        added.append(f"{MAX_NUM_SEQS} {state.limits.requests}")
    return tuple(added)


def _ungrouped(
    request: PlanRequest, rules: VllmRules, given: VllmFlags, reason: str, notes: tuple[str, ...]
) -> EnginePlan:
    """The plan of a server whose layers vLLM cannot group."""
    limits = batch_limits(given, request.gpu, given.max_model_len or request.context, rules)
    budget = kv_budget(
        request.model, request.gpu, request.tp, limits, given, rules, request.available_kv_bytes
    )
    return EnginePlan(
        engine="vllm",
        version=rules.version,
        starts=False,
        fits=False,
        reason=reason,
        weights_bytes=budget.weights + budget.rope,
        available_kv_bytes=max(budget.available, 0),
        capacity_tokens=0,
        max_concurrency=0.0,
        printed={},
        pools={},
        ledger=MemoryLedger((), request.gpu.memory_bytes),
        flags=(),
        warnings=notes,
    )
