"""What a planned server with the plug-in reserves, has in memory when idle and under load, and what a request keeps."""

from __future__ import annotations

from farspan.engines.sglang.elastic import idle_pool_bytes, idle_table_bytes, row_bytes
from farspan.engines.sglang.footprint import full_pool_bytes
from farspan.engines.sglang.pool import pool_bytes
from farspan.engines.sglang.state import SglangState
from farspan.engines.sglang.tables import request_table_bytes
from farspan.sizes import format_bytes


def elastic_figures(state: SglangState) -> dict[str, int]:
    """Return the bytes of one GPU that the KV pools and the table of requests take, by when."""
    request, config = state.request, state.config
    idle, row = _idle_bytes(state), row_bytes(state.context_length, request.context)
    kept = state.request_kv_bytes if config.has_elastic_pools else 0
    asked = f"bytes at {request.concurrency} x {request.context:,} tokens"
    return {
        "bytes reserved for the table": request_table_bytes(state.rows, state.context_length, config.rules),
        "bytes at idle": idle,
        asked: idle + request.concurrency * (row + kept),
        "bytes a request keeps": state.request_kv_bytes,
    }


def elastic_notes(state: SglangState) -> list[str]:
    """Return what a user is told of it; nothing without the plug-in."""
    request, elastic = state.request, state.config.elastic
    if elastic is None:
        return []
    reserved, idle, asked, kept = map(format_bytes, elastic_figures(state).values())
    found = [
        f"Elastic: the request-to-token table has {reserved} of addresses and costs what requests can need. It "
        f"and the KV pools have {idle} of memory at idle, {asked} with {request.concurrency} of {request.context:,} "
        f"tokens; one such request keeps {kept} in the prefix cache until that memory is needed or asked back."
    ]
    if elastic.why_not:
        found.append(f"The KV pools are SGLang's own, of one size from the start: {elastic.why_not}.")
    return found


def _idle_bytes(state: SglangState) -> int:
    config, sizes = state.config, state.memory.sizes
    layout, page = config.layout, config.resolved.page_size
    rows = state.rows + config.rules.padding_row
    table = idle_table_bytes(rows, state.context_length, pools=config.has_elastic_pools)
    if config.has_elastic_pools:
        return table + idle_pool_bytes(layout, page)
    window = pool_bytes(sizes.window_tokens, layout.window_layers, layout.window_layer_bytes, page)
    return table + window + full_pool_bytes(config, sizes)
