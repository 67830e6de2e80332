"""Plan one SGLang server: what its start-up arithmetic gives for a request, and whether it fits."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from farspan.errors import InputError
from farspan.models.spec import AttentionKind, ModelSpec
from farspan.planner.ledger import Basis, MemoryLedger, Phase
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.sglang.admission import Admission, admission
from farspan.planner.sglang.defaults import Resolved, resolve
from farspan.planner.sglang.flags import GivenFlags, read_flags
from farspan.planner.sglang.hicache import HostTier, hicache_warnings, host_tier
from farspan.planner.sglang.ledger import (
    LoadLines,
    graph_lines,
    host_lines,
    load_lines,
    pool_lines,
    runtime_lines,
)
from farspan.planner.sglang.pool import (
    KvLayout,
    PoolError,
    PoolSizes,
    SplitSettings,
    is_hybrid,
    kv_layout,
    requests_by_state,
    solve_pools,
)
from farspan.planner.sglang.printed import printed_figures
from farspan.planner.sglang.tables import GraphShape, captured_batch, graph_tables, request_rows
from farspan.planner.sglang.versions import KNOWN_VERSIONS, SglangRules, rules_of
from farspan.planner.sglang.warnings import start_warnings
from farspan.planner.timing import estimate_time
from farspan.planner.versions import ResolvedVersion, resolve_version
from farspan.sizes import format_bytes

_OWN_FLAGS = ("--tp-size", "--tensor-parallel-size", "--tp", "--context-length", "--kv-cache-dtype")


class SglangState(NamedTuple):
    """Everything computed for one server, for the warnings and the tests."""

    request: PlanRequest
    rules: SglangRules
    given: GivenFlags
    resolved: Resolved
    layout: KvLayout
    load: LoadLines
    available: float
    sizes: PoolSizes
    rows: int
    ledger: MemoryLedger
    limits: Admission
    tier: HostTier | None


def plan_sglang(request: PlanRequest) -> EnginePlan:
    """What SGLang would do with a request.

    Flags given by hand are planned as they are. When none are given and the defaults do not fit, the plan
    adds the flags that cure it, and says so.

    Raises:
        InputError: Unknown version, a flag SGLang refuses or farspan does not mirror, a TP size or context
            the model does not allow, an architecture this version does not implement.
    """
    plan = _plan(request)
    if plan.fits or request.engine_flags:
        return plan
    for flags in cures(request):
        cured = _plan(replace(request, engine_flags=flags))
        if cured.fits or (cured.starts and not plan.starts):
            added = " ".join(f"{name} {value}" for name, value in flags.items())
            note = f"SGLang's defaults do not serve this request ({plan.reason}): farspan adds {added}."
            plan = replace(cured, warnings=(note, *cured.warnings))
        if plan.fits:
            break
    return plan


def cures(request: PlanRequest) -> tuple[dict[str, str | None], ...]:
    """Flags to try in turn when the defaults do not serve: fewer rows, then a smaller window pool too."""
    rows: dict[str, str | None] = {"--max-running-requests": str(max(8, request.concurrency))}
    return rows, {**rows, "--swa-full-tokens-ratio": "0.05"}


def _plan(request: PlanRequest) -> EnginePlan:
    """Plan a request with exactly its flags."""
    chosen = _version(request.engine_version, request.accept_nearest_version)
    rules = rules_of(chosen.version)
    model = request.model
    if model.architecture in rules.missing:
        raise InputError(
            f"sglang {rules.version} has no implementation of {model.architecture}",
            "choose a newer --engine-version, or plan it for vLLM",
        )
    _check_tp(model, request.tp)
    given = read_flags(request, rules)
    resolved = resolve(given, model, request.gpu, request.tp, rules, request.context)
    hybrid = is_hybrid(model, rules, ratio=given.hybrid_ratio, off=given.hybrid_off)
    layout = kv_layout(model, resolved.kv_dtype, request.tp, rules, hybrid=hybrid)
    load = load_lines(model, request.gpu, request.tp, resolved, rules)
    available = kv_bytes(request, load, resolved, rules)
    notes = (chosen.warning,) if chosen.warning else ()
    try:
        sizes = solve_pools(available, layout, split_settings(given, resolved), rules)
    except PoolError as error:
        return _no_pool(request, rules, load, available, error, notes)
    state = _build(request, rules, given, resolved, layout, load, available, sizes)
    return _answer(state, notes)


def kv_bytes(request: PlanRequest, load: LoadLines, resolved: Resolved, rules: SglangRules) -> float:
    """Bytes the pools are sized from: what is free after loading less (1 - fraction) of what was free before
    (0.5.6.post2 profile_max_num_token, 0.5.16 _profile_available_bytes)."""
    if request.available_kv_bytes is not None:
        return float(request.available_kv_bytes)
    slack = load.free_before * (1 - resolved.mem_fraction_static)
    reserve = rules.multimodal_reserve_bytes if resolved.multimodal else 0
    return load.free_after - slack - reserve


def split_settings(given: GivenFlags, resolved: Resolved) -> SplitSettings:
    """What the pool split depends on."""
    return SplitSettings(
        page_size=resolved.page_size,
        swa_ratio=given.swa_ratio,
        hybrid_ratio=given.hybrid_ratio,
        context_length=resolved.context_length,
        max_total_tokens=given.max_total_tokens,
        max_running_requests=given.max_running_requests,
        chunked_prefill_size=resolved.chunked_prefill_size,
        radix_cache=given.radix_cache,
        overlap=given.overlap,
        mamba_ratio=given.mamba_ratio,
        mamba_slots=given.mamba_slots,
    )


def _build(
    request: PlanRequest,
    rules: SglangRules,
    given: GivenFlags,
    resolved: Resolved,
    layout: KvLayout,
    load: LoadLines,
    available: float,
    sizes: PoolSizes,
) -> SglangState:
    """Rows, tables, ledger and limits of a server whose pools are known."""
    state_cap = None
    if sizes.state_slots:
        state_cap = requests_by_state(
            sizes.state_slots, rules, radix_cache=given.radix_cache, overlap=given.overlap
        )
    rows = request_rows(
        sizes.row_tokens, resolved.context_length, given.max_running_requests, rules, state_cap
    )
    batch = captured_batch(resolved.graph_bs, rows) if resolved.graph_bs and rows > 0 else 0
    shape = graph_shape(request.model, request.tp, resolved, layout, batch, rows, amd=_amd(request))
    tables = graph_tables(resolved.decode_backend, shape, rules) if batch else ()
    tier = host_tier(given, resolved, layout, sizes, request.tp, request.host_memory_bytes, rules)
    captured = sum(1 for size in resolved.graph_bs if size <= batch)
    prompt = max(1, request.context - request.output_tokens)
    ledger = MemoryLedger(
        (
            *load.lines,
            *pool_lines(layout, sizes, rows, resolved, rules),
            *host_lines(tier, rules),
            *graph_lines(tables, batch, captured, resolved, rules),
            *runtime_lines(request.model, request.tp, prompt, resolved, rules, radix_cache=given.radix_cache),
        ),
        request.gpu.memory_bytes,
    )
    limits = admission(
        sizes,
        layout,
        rows,
        resolved.context_length,
        request.context,
        resolved.chunked_prefill_size,
        resolved.page_size,
        rules,
        overlap=given.overlap,
    )
    return SglangState(
        request, rules, given, resolved, layout, load, available, sizes, rows, ledger, limits, tier
    )


def graph_shape(
    model: ModelSpec, tp: int, resolved: Resolved, layout: KvLayout, batch: int, rows: int, *, amd: bool
) -> GraphShape:
    """The sizes an attention backend's graph state depends on."""
    chunk, window, top_k = _windows(model)
    pattern = model.layers[0]
    return GraphShape(
        batch=batch,
        context_length=resolved.context_length,
        page_size=resolved.page_size,
        chunk=chunk,
        window=max(chunk, window),
        split_pools=layout.window_layers > 0,
        heads=max(1, pattern.num_heads // tp),
        value_dim=pattern.value_head_dim or pattern.head_dim,
        rows=rows,
        uses_mla=layout.latent,
        index_top_k=top_k,
        amd=amd,
    )


@lru_cache(maxsize=64)
def _windows(model: ModelSpec) -> tuple[int, int, int]:
    """The attention chunk, the sliding window and the index top-k of a model, 0 where it has none."""
    chunks = [layer.window or 0 for layer in model.layers_of(AttentionKind.CHUNKED_LOCAL)]
    windows = [layer.window or 0 for layer in model.layers_of(AttentionKind.SLIDING_WINDOW)]
    top_k = [layer.indexer.top_k for layer in model.layers if layer.indexer]
    return max(chunks, default=0), max(windows, default=0), max(top_k, default=0)


def free_when_started(ledger: MemoryLedger, *, certain_only: bool = False) -> int:
    """Bytes left once the server is up, negative if it does not start; `certain_only` skips assumed lines."""
    used = sum(
        line.bytes
        for line in ledger
        if not line.on_host
        and line.when is not Phase.RUNTIME
        and not (certain_only and line.basis is Basis.ASSUMED)
    )
    return ledger.capacity_bytes - used


def _answer(state: SglangState, notes: tuple[str, ...]) -> EnginePlan:
    """The plan of a server whose pools could be sized."""
    request, sizes, limits = state.request, state.sizes, state.limits
    left = free_when_started(state.ledger)
    refused = state.tier.refusal if state.tier else ""
    starts = left >= 0 and not refused and state.rows > 0
    runs = state.ledger.free_bytes >= 0
    holds = limits.longest_request + 2 >= request.context and request.context <= state.resolved.context_length
    fits = starts and runs and holds and limits.concurrency >= request.concurrency
    pools = {"full": sizes.full_tokens}
    if sizes.window_tokens:
        pools["window"] = sizes.window_tokens
    if sizes.state_slots:
        pools["state slots"] = sizes.state_slots
    return EnginePlan(
        engine="sglang",
        version=state.rules.version,
        starts=starts,
        fits=fits,
        reason=_reason(state, left, refused, starts=starts, fits=fits),
        weights_bytes=state.load.weights_bytes,
        available_kv_bytes=int(state.available),
        capacity_tokens=limits.longest_request,
        max_concurrency=limits.concurrency,
        printed=printed_figures(
            state.rules,
            state.resolved,
            state.layout,
            sizes,
            state.rows,
            state.given.max_prefill_tokens,
            state.ledger,
        ),
        pools=pools,
        ledger=state.ledger,
        flags=server_flags(request, state.resolved),
        warnings=(
            *notes,
            *start_warnings(
                request,
                state.rules,
                state.given,
                state.resolved,
                state.layout,
                state.load,
                sizes,
                state.rows,
                limits,
                left,
            ),
            *hicache_warnings(
                state.given, state.resolved, request.model, bool(state.layout.window_layers), state.rules
            ),
        ),
        time=estimate_time(
            request.model,
            request.gpu,
            tp=request.tp,
            engine="sglang",
            version=state.rules.version,
            prompt_tokens=max(1, request.context - request.output_tokens),
            output_tokens=request.output_tokens,
            kv_dtype=state.resolved.kv_dtype,
            backend=state.resolved.attention_backend,
            chunk=state.resolved.chunked_prefill_size,
            prefix_tree=state.given.radix_cache,
        ),
    )


def _reason(state: SglangState, left: int, refused: str, *, starts: bool, fits: bool) -> str:
    """One sentence: why it fits, or what breaks it and by how much."""
    request, limits = state.request, state.limits
    pool = f"{state.sizes.full_tokens:,} tokens"
    if fits:
        return (
            f"{request.context:,} tokens fit {limits.concurrency:.2f} times in a pool of {pool}, "
            f"{format_bytes(left)} free once started"
        )
    if refused:
        return refused
    if not starts:
        breaker = state.ledger.first_overflow()
        name = breaker.name if breaker else "the last allocation"
        largest = max(
            (
                line
                for line in state.ledger
                if line.when in (Phase.POOL, Phase.GRAPHS) and "KV pool" not in line.name
            ),
            key=lambda line: 0 if line.on_host else line.bytes,
        )
        return (
            f"{format_bytes(-left)} short while starting, at {name}: the {largest.name} takes "
            f"{format_bytes(largest.bytes)} outside --mem-fraction-static"
        )
    if request.context > state.resolved.context_length:
        return f"--context-length {state.resolved.context_length:,} is below {request.context:,} tokens"
    if limits.longest_request + 2 < request.context:
        if limits.hangs_above:
            return (
                f"a prompt above the window pool's {limits.hangs_above:,} tokens waits for ever: admission "
                "up to 0.5.10 needs room for all of it there"
            )
        return f"the pool holds {pool}, {request.context - state.sizes.full_tokens:,} too few for one request"
    if state.ledger.free_bytes < 0:
        breaker = state.ledger.first_overflow()
        return (
            f"it starts, and runs out by {format_bytes(-state.ledger.free_bytes)} during the prompt, at "
            f"{breaker.name if breaker else 'run time'}"
        )
    if limits.concurrency >= state.rows:
        return f"--max-running-requests {state.rows} is below {request.concurrency} requests"
    return f"the pool of {pool} holds {limits.concurrency:.2f} requests of {request.context:,}"


def server_flags(request: PlanRequest, resolved: Resolved) -> tuple[str, ...]:
    """The server's arguments, ready to paste; flags given by hand are passed through."""
    words = ["--tp-size", str(request.tp), "--context-length", str(resolved.context_length)]
    if resolved.kv_dtype.value != "auto":
        words += ["--kv-cache-dtype", resolved.kv_dtype.value]
    for name, value in request.engine_flags.items():
        if name in _OWN_FLAGS:
            continue
        words.append(name)
        if value is not None:
            words += value.split() if name.startswith("--cuda-graph-bs") else [value]
    return tuple(words)


def _no_pool(
    request: PlanRequest,
    rules: SglangRules,
    load: LoadLines,
    available: float,
    error: PoolError,
    notes: tuple[str, ...],
) -> EnginePlan:
    """The plan of a server that stops while sizing its pools."""
    return EnginePlan(
        engine="sglang",
        version=rules.version,
        starts=False,
        fits=False,
        reason=str(error),
        weights_bytes=load.weights_bytes,
        available_kv_bytes=max(0, int(available)),
        capacity_tokens=0,
        max_concurrency=0.0,
        printed={},
        pools={},
        ledger=MemoryLedger(load.lines, request.gpu.memory_bytes),
        flags=(),
        warnings=notes,
    )


@lru_cache(maxsize=64)
def _version(wanted: str, accept_nearest: bool) -> ResolvedVersion:
    return resolve_version("sglang", wanted, KNOWN_VERSIONS, accept_nearest=accept_nearest)


@lru_cache(maxsize=256)
def _check_tp(model: ModelSpec, tp: int) -> None:
    model.check_tp(tp)


def _amd(request: PlanRequest) -> bool:
    return request.gpu.capability == (0, 0)
