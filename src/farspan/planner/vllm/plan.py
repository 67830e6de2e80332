"""What vLLM would do with a request, by version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.planner.ledger import MemoryLedger
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.timing import estimate_time
from farspan.planner.vllm.batch import batch_limits, on_second_runner
from farspan.planner.vllm.beliefs import warnings
from farspan.planner.vllm.budget import gib, kv_budget
from farspan.planner.vllm.flags import (
    CHUNKED_HYBRID_ENV,
    ENV_NAMES,
    LONG_CONTEXT_ENV,
    MAX_MODEL_LEN,
    MAX_NUM_SEQS,
    GivenFlags,
    normalized,
    read_flags,
)
from farspan.planner.vllm.hybrid import hybrid_state
from farspan.planner.vllm.kv_groups import GroupingError
from farspan.planner.vllm.layers import default_block_size, kv_layout, resolve_kv_dtype
from farspan.planner.vllm.lines import make_ledger
from farspan.planner.vllm.printed import SIZE_KEY, concurrency_key, kv_cache_size_tokens
from farspan.planner.vllm.state import VllmState
from farspan.planner.vllm.tables import table_bytes
from farspan.planner.vllm.versions import VllmRules, first_version_with, rules_for
from farspan.sizes import format_bytes

# Fewer requests at once, tried in turn when the default's block tables would not fit beside the pool.
_FEWER_REQUESTS = (256, 64, 16, 8, 4, 2, 1)
_OWN_FLAGS = (MAX_MODEL_LEN, MAX_NUM_SEQS, "--kv-cache-dtype", "--tensor-parallel-size", "-tp", *ENV_NAMES)


def plan_vllm(request: PlanRequest) -> EnginePlan:
    """What vLLM would do with a request.

    Where a default keeps a request from fitting and an environment variable or `--max-num-seqs` cures it, the
    plan sets it and says so; a flag given by hand is never changed.

    Raises:
        InputError: Unknown version, a flag vLLM refuses or farspan does not mirror, a TP size the model does
            not allow, a kind of attention whose cache is not mirrored.
    """
    rules, resolved = rules_for(request.engine_version, accept_nearest=request.accept_nearest_version)
    request.model.check_tp(request.tp)
    given = read_flags(request, rules)
    notes = (resolved.warning,) if resolved.warning else ()
    try:
        state = _settle(request, rules, given, allow_env=False)
        if not state.fits and state.hybrid.env_decides:
            other = _settle(request, rules, given, allow_env=True)
            state = other if other.fits or other.capacity > state.capacity else state
    except GroupingError as error:
        return _refused(request, rules, given, str(error), notes)
    return _answer(state, notes)


def _settle(request: PlanRequest, rules: VllmRules, given: GivenFlags, *, allow_env: bool) -> VllmState:
    """Settle flags, layers and budget; fewer requests at once when the default does not fit the card.

    Raises:
        GroupingError: vLLM cannot group the layers.
    """
    state = _state(request, rules, given, allow_env=allow_env)
    if given.max_num_seqs is not None or _overflow(state) <= 0:
        return state
    for requests in _FEWER_REQUESTS:
        if request.concurrency <= requests < state.limits.requests:
            smaller = _state(request, rules, given, allow_env=allow_env, requests=requests)
            if _overflow(smaller) <= 0:
                return smaller
    return state


def _state(
    request: PlanRequest, rules: VllmRules, given: GivenFlags, *, allow_env: bool, requests: int | None = None
) -> VllmState:
    model = request.model
    hybrid = hybrid_state(model, given, rules, allow_env=allow_env)
    kv_dtype = resolve_kv_dtype(model, given.kv_dtype)
    block_size = given.block_size or default_block_size(model, request.gpu, kv_dtype, rules)
    prefix_caching = _prefix_caching(model, given, rules)
    layout = kv_layout(
        model,
        rules,
        tp=request.tp,
        kv_dtype=kv_dtype,
        block_size=block_size,
        hybrid=hybrid.on,
        prefix_caching=prefix_caching,
    )
    max_model_len = given.max_model_len or request.context
    if given.auto_max_model_len:
        max_model_len = model.max_position_embeddings
    default = batch_limits(given, request.gpu, max_model_len, rules)
    limits = default if requests is None else replace(default, requests=requests)
    budget = kv_budget(model, request.gpu, request.tp, limits, given, rules, request.available_kv_bytes)
    num_blocks = given.num_blocks or layout.num_blocks(budget.available)
    available = num_blocks * layout.bytes_per_block if given.num_blocks else budget.available
    in_flight = limits.in_flight(rules)
    if given.auto_max_model_len:
        longest = layout.estimated_max_model_len(available, max_model_len, in_flight)
        max_model_len = longest or max_model_len
    ledger = make_ledger(
        model,
        request.gpu,
        request.tp,
        layout,
        num_blocks,
        max_model_len,
        limits,
        budget,
        rules,
        graphs=not given.enforce_eager,
    )
    state = VllmState(
        request=request,
        rules=rules,
        given=given,
        hybrid=hybrid,
        env_chosen=allow_env and hybrid.on and not rules.chunked_hybrid_default,
        kv_dtype=kv_dtype,
        block_size=block_size,
        prefix_caching=prefix_caching,
        layout=layout,
        max_model_len=max_model_len,
        limits=limits,
        default_requests=default.requests,
        default_tables=table_bytes(
            layout, max_model_len, default.requests, second_runner=on_second_runner(model, rules)
        ),
        budget=budget,
        num_blocks=num_blocks,
        ledger=ledger,
        refusal="",
        capacity=layout.longest_request(num_blocks, in_flight),
    )
    return replace(state, refusal=next(_refusals(state, available), ""))


def _prefix_caching(model: ModelSpec, given: GivenFlags, rules: VllmRules) -> bool:
    if given.prefix_caching is not None:
        return given.prefix_caching
    recurrent = any(True for _ in model.layers_of(AttentionKind.LINEAR))
    return rules.prefix_caches_states or not recurrent


def _overflow(state: VllmState) -> int:
    """Bytes the server lacks once everything is allocated; what the engine's own log says is not doubted."""
    if state.request.available_kv_bytes is not None:
        return 0
    return -state.ledger.free_bytes


def _refusals(state: VllmState, available: int) -> Iterator[str]:
    """Why the server does not start, in the order vLLM finds out."""
    request, rules, layout = state.request, state.rules, state.layout
    first = first_version_with(request.model.architecture, rules)
    if first:
        yield f"vLLM {rules.version} does not know {request.model.architecture}; {first} does"
    if state.hybrid.refusal:
        yield state.hybrid.refusal
    limit = request.model.max_position_embeddings
    if state.max_model_len > limit and not state.given.long_context_env:
        yield (
            f"{MAX_MODEL_LEN} {state.max_model_len} is above the model's {limit:,} positions; "
            f"{LONG_CONTEXT_ENV}=1 would allow it, with answers nobody vouches for"
        )
    if _e5m2_asserts(state):
        yield (
            "fp8_e5m2 meets a quantized query and vLLM asserts kv_cache_dtype in {fp8, fp8_e4m3}: "
            "use fp8_e4m3"
        )
    if layout.check_bytes(available) <= 0:
        yield _no_memory(state, available)
    elif not layout.passes_check(available, state.max_model_len, state.in_flight):
        needed = layout.needed_bytes(state.max_model_len, state.in_flight)
        estimate = layout.estimated_max_model_len(available, state.max_model_len, state.in_flight)
        yield (
            f"vLLM refuses to start: {state.max_model_len:,} tokens need {gib(needed)} of KV cache and "
            f"{gib(layout.check_bytes(available))} is available; estimated maximum model length {estimate:,}"
        )
    lacking = _overflow(state)
    if lacking > 0:
        tables = state.ledger["block tables"].bytes
        yield (
            f"{format_bytes(lacking)} short while the server warms up: the budget takes "
            f"{format_bytes(state.budget.requested)} and the block tables {format_bytes(tables)} beside it; "
            f"lower --gpu-memory-utilization or {MAX_NUM_SEQS}"
        )


def _no_memory(state: VllmState, available: int) -> str:
    budget = state.budget
    if budget.given:
        return f"vLLM refuses to start: {gib(available)} for KV cache does not hold one block"
    return (
        f"vLLM refuses to start: of {gib(budget.requested)} it may use, weights take "
        f"{gib(budget.weights + budget.rope)} and the profile run {gib(budget.profile.total)}, "
        "which leaves no memory for cache blocks"
    )


def _e5m2_asserts(state: VllmState) -> bool:
    """Whether E5M2 meets a query quantized to E4M3 (vllm 0.12.0 attention/layer.py: Attention.forward)."""
    if state.kv_dtype is not KvDtype.FP8_E5M2:
        return False
    generation = state.request.gpu.capability[0]
    return generation == 10 or (generation == 9 and state.rules.e5m2_meets_quantized_query)


def _answer(state: VllmState, notes: tuple[str, ...]) -> EnginePlan:
    request = state.request
    return EnginePlan(
        engine="vllm",
        version=state.rules.version,
        starts=state.starts,
        fits=state.fits,
        reason=_reason(state),
        weights_bytes=state.budget.weights + state.budget.rope,
        available_kv_bytes=max(state.budget.available, 0),
        capacity_tokens=state.capacity,
        max_concurrency=state.max_concurrency,
        printed=_printed(state),
        pools={"token slots": state.num_blocks * state.layout.block_size},
        ledger=state.ledger,
        flags=server_flags(state),
        env=_env(state),
        warnings=(*notes, *warnings(state)),
        time=estimate_time(
            request.model,
            request.gpu,
            tp=request.tp,
            engine="vllm",
            version=state.rules.version,
            prompt_tokens=max(1, request.context - request.output_tokens),
            output_tokens=request.output_tokens,
            kv_dtype=state.kv_dtype,
        ),
    )


def _reason(state: VllmState) -> str:
    request = state.request
    if state.refusal:
        return state.refusal
    if request.context > state.max_model_len:
        return f"{MAX_MODEL_LEN} {state.max_model_len} is below the {request.context:,} tokens asked for"
    if state.limits.requests < request.concurrency:
        return f"{MAX_NUM_SEQS} {state.limits.requests} is below {request.concurrency} requests"
    pool = f"{gib(state.num_blocks * state.layout.bytes_per_block)} of KV cache"
    held = f"{state.max_concurrency:.2f} requests of {request.context:,} tokens"
    if state.fits:
        return f"{pool} holds {held}; the longest single request is {state.capacity:,} tokens"
    if state.capacity < request.context:
        return (
            f"{pool} holds one request of {state.capacity:,} tokens, "
            f"{request.context - state.capacity:,} fewer than asked for"
        )
    return f"{pool} holds {held}, not {request.concurrency}"


def _printed(state: VllmState) -> dict[str, int | float | str]:
    """The figures vLLM prints at start, by its own words; its refusal's estimate when it does not start."""
    layout, length = state.layout, state.max_model_len
    printed: dict[str, int | float | str] = {
        "Model loading took": gib(state.budget.weights + state.budget.rope),
    }
    if state.budget.available > 0:
        printed["Available KV cache memory"] = gib(state.budget.available)
    if state.num_blocks <= 0:
        return printed
    if not layout.passes_check(state.num_blocks * layout.bytes_per_block, length, state.in_flight):
        estimate = layout.estimated_max_model_len(state.budget.available, length, state.in_flight)
        printed["estimated maximum model length"] = estimate
        return printed
    printed[SIZE_KEY] = kv_cache_size_tokens(layout, state.num_blocks, length, state.in_flight)
    printed[concurrency_key(length)] = round(layout.concurrency(state.num_blocks, length, state.in_flight), 2)
    return printed


def server_flags(state: VllmState) -> tuple[str, ...]:
    """The server's arguments, ready to paste, numbers in digits; flags given by hand are passed through."""
    words = ["--tensor-parallel-size", str(state.request.tp), MAX_MODEL_LEN, str(state.max_model_len)]
    if state.given.kv_dtype is not KvDtype.AUTO:
        words += ["--kv-cache-dtype", state.given.kv_dtype.value]
    if state.given.max_num_seqs is not None or state.requests_chosen:
        words += [MAX_NUM_SEQS, str(state.limits.requests)]
    for name, value in normalized(state.request.engine_flags).items():
        if name not in _OWN_FLAGS:
            words += [name] if value is None else [name, value]
    return tuple(words)


def _env(state: VllmState) -> dict[str, str]:
    asked = {name: value or "" for name, value in state.request.engine_flags.items() if name in ENV_NAMES}
    return {**asked, CHUNKED_HYBRID_ENV: "1"} if state.env_chosen else asked


def _refused(
    request: PlanRequest, rules: VllmRules, given: GivenFlags, reason: str, notes: tuple[str, ...]
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
