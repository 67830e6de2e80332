"""Everything computed for one SGLang server: pools, rows, tables, and what is left of the GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from farspan.engines.sglang.admission import Admission, admission
from farspan.engines.sglang.defaults import Resolved
from farspan.engines.sglang.flags import SglangFlags
from farspan.engines.sglang.hicache import HicacheTier, host_tier
from farspan.engines.sglang.ledger import (
    LoadSizes,
    context_bytes,
    fixed_bytes,
    graph_lines,
    host_lines,
    load_lines,
    load_sizes,
    pool_lines,
    prefill_bytes,
    returned_bytes,
    runtime_lines,
)
from farspan.engines.sglang.pool import (
    PoolSizes,
    SglangKvLayout,
    SplitSettings,
    requests_by_state,
    solve_pools,
)
from farspan.engines.sglang.tables import (
    GraphShape,
    GraphTable,
    captured_batch,
    graph_tables,
    request_rows,
)
from farspan.engines.sglang.versions import SglangRules
from farspan.hardware.gpu import Gpu
from farspan.models.spec import AttentionKind, ModelSpec
from farspan.planner.ledger import Basis, LedgerPhase, MemoryLedger
from farspan.planner.request import PlanRequest


class SglangFrame(NamedTuple):
    """What a server is whatever its context: worked out once for a sweep.

    Args:
        rules: The version's rules.
        given: Flags as given.
        layout: Bytes a token.
        load: What is on the GPU before the pools.
        available: Bytes the pools are sized from.
        sizes: What the pools hold.
        fixed: Bytes on the GPU that the context does not change.
        state_cap: Requests the recurrent-state slots allow; None without recurrent layers.
    """

    rules: SglangRules
    given: SglangFlags
    layout: SglangKvLayout
    load: LoadSizes
    available: float
    sizes: PoolSizes
    fixed: int
    state_cap: int | None


class SglangState(NamedTuple):
    """Everything computed for one server. `left_started` and `left_running` are bytes left on the GPU."""

    request: PlanRequest
    resolved: Resolved
    frame: SglangFrame
    rows: int
    tables: tuple[GraphTable, ...]
    batch: int
    prompt: int
    left_started: int
    left_running: int
    limits: Admission
    tier: HicacheTier | None

    @property
    def refusal(self) -> str:
        """Why the server stops for want of RAM; empty when it does not."""
        return self.tier.refusal if self.tier else ""


def kv_bytes(
    available_kv_bytes: int | None, load: LoadSizes, resolved: Resolved, rules: SglangRules
) -> float:
    """Bytes the pools are sized from: what is free after loading less (1 - fraction) of what was free before
    (0.5.6.post2 profile_max_num_token, 0.5.16 _profile_available_bytes)."""
    if available_kv_bytes is not None:
        return float(available_kv_bytes)
    slack = load.free_before * (1 - resolved.mem_fraction_static)
    reserve = rules.multimodal_reserve_bytes if resolved.multimodal else 0
    return load.free_after - slack - reserve


def split_settings(given: SglangFlags, resolved: Resolved) -> SplitSettings:
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


def make_frame(
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    available_kv_bytes: int | None,
    rules: SglangRules,
    given: SglangFlags,
    resolved: Resolved,
    layout: SglangKvLayout,
) -> SglangFrame:
    """Size the pools.

    Raises:
        PoolError: SGLang stops here: no token fits, or the window pool cannot hold one request.
    """
    load = load_sizes(model, gpu, tp, resolved, given.cpu_offload_bytes)
    available = kv_bytes(available_kv_bytes, load, resolved, rules)
    sizes = solve_pools(available, layout, split_settings(given, resolved), rules)
    cap = None
    if sizes.state_slots:
        cap = requests_by_state(
            sizes.state_slots, rules, radix_cache=given.radix_cache, overlap=given.overlap
        )
    fixed = fixed_bytes(load, layout, sizes, resolved, rules)
    return SglangFrame(rules, given, layout, load, available, sizes, fixed, cap)


def build_state(request: PlanRequest, resolved: Resolved, frame: SglangFrame) -> SglangState:
    """Rows, tables, what is left and limits of a server whose pools are known."""
    rules, given, layout, sizes = frame.rules, frame.given, frame.layout, frame.sizes
    rows = request_rows(
        sizes.row_tokens, resolved.context_length, given.max_running_requests, rules, frame.state_cap
    )
    batch = captured_batch(resolved.graph_bs, rows) if resolved.graph_bs and rows > 0 else 0
    tables: tuple[GraphTable, ...] = ()
    if batch:
        shape = graph_shape(request.model, request.tp, resolved, layout, batch, rows, amd=_amd(request))
        tables = graph_tables(resolved.decode_backend, shape, rules)
    tier = host_tier(given, resolved, layout, sizes, request.tp, request.host_memory_bytes, rules)
    prompt = max(1, request.context - request.output_tokens)
    activations, copies = prefill_bytes(
        request.model, request.tp, prompt, resolved, rules, radix_cache=given.radix_cache
    )
    started = frame.fixed + context_bytes(rows, tables, batch, resolved, rules)
    running = activations + copies
    if frame.load.offloaded:
        running += returned_bytes(request.model, request.tp, frame.load.offloaded)
    left = request.gpu.memory_bytes - started
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
        request, resolved, frame, rows, tables, batch, prompt, left, left - running, limits, tier
    )


def make_ledger(state: SglangState) -> MemoryLedger:
    """Every allocation of a server, in the order it makes them."""
    request, resolved, frame = state.request, state.resolved, state.frame
    rules = frame.rules
    model, tp = request.model, request.tp
    captured = sum(1 for size in resolved.graph_bs if size <= state.batch)
    return MemoryLedger(
        (
            *load_lines(frame.load, model, tp, resolved, rules),
            *pool_lines(frame.layout, frame.sizes, state.rows, resolved, rules),
            *host_lines(frame.load, state.tier, rules),
            *graph_lines(state.tables, state.batch, captured, resolved, rules),
            *runtime_lines(
                model,
                tp,
                state.prompt,
                resolved,
                rules,
                radix_cache=frame.given.radix_cache,
                offloaded=frame.load.offloaded,
            ),
        ),
        request.gpu.memory_bytes,
    )


def graph_shape(
    model: ModelSpec, tp: int, resolved: Resolved, layout: SglangKvLayout, batch: int, rows: int, *, amd: bool
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
        and line.when is not LedgerPhase.RUNTIME
        and not (certain_only and line.basis is Basis.ASSUMED)
    )
    return ledger.capacity_bytes - used


def _amd(request: PlanRequest) -> bool:
    return request.gpu.capability == (0, 0)
