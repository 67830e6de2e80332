"""The figures each SGLang version logs while it starts, by its own words. Its "GB" are GiB."""

from __future__ import annotations

from farspan.engines.sglang.pool import pool_bytes
from farspan.engines.sglang.state import SglangState
from farspan.planner.ledger import LedgerPhase, MemoryLedger
from farspan.sizes import GIB


def printed_figures(state: SglangState, ledger: MemoryLedger) -> dict[str, int | float | str]:
    """Figures in log order: the split, `KV Cache is allocated`, free memory, the summary line."""
    figures: dict[str, int | float | str] = {}
    rules, layout, sizes = state.config.rules, state.config.layout, state.memory.sizes
    page = state.config.resolved.page_size
    full = pool_bytes(sizes.full_tokens, layout.full_layers, layout.stored_layer_bytes, page)
    window = pool_bytes(sizes.window_tokens, layout.window_layers, layout.window_layer_bytes, page)
    after_load = ledger.capacity_bytes - ledger.phase_bytes(LedgerPhase.LOAD)
    figures["Load weight end avail mem"] = _gib(after_load)
    if layout.window_layers and rules.newest_api:
        figures["full_layer_tokens"] = sizes.full_tokens
        figures["swa_layer_tokens"] = sizes.window_tokens
    after_pools = after_load - ledger.phase_bytes(LedgerPhase.POOL)
    if after_pools < 0:
        return figures  # the server stops here and prints no more
    if layout.window_layers:
        figures["KV Cache is allocated #tokens (swa)"] = sizes.window_tokens
        figures["K size (swa)"] = _gib(window / 2)
        figures["V size (swa)"] = _gib(window / 2)
    figures["KV Cache is allocated #tokens"] = sizes.full_tokens
    if layout.latent:
        figures["KV size"] = _gib(full)
    else:
        figures["K size"] = _gib(full / 2)
        figures["V size"] = _gib(full / 2)
    if layout.window_layers:
        figures["SWAKVPool mem usage"] = _gib(full + window)
    figures["Memory pool end avail mem"] = _gib(after_pools)
    after_graphs = after_pools - ledger.phase_bytes(LedgerPhase.GRAPHS)
    if after_graphs < 0:
        return figures
    figures["max_total_num_tokens"] = sizes.full_tokens
    figures["chunked_prefill_size"] = state.config.resolved.chunked_prefill_size
    figures["max_prefill_tokens"] = state.config.given.max_prefill_tokens
    figures["max_running_requests"] = (
        state.rows if rules.rows_capped_by_pool else min(state.rows, sizes.full_tokens // 2)
    )
    figures["context_len"] = state.context_length
    figures["available_gpu_mem"] = _gib(after_graphs)
    return figures


def _gib(count: float) -> float:
    return round(count / GIB, 2)
