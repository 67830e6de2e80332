"""HiCache: the copy of the KV cache in the machine's memory, and the ways it can be asked for wrongly."""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.sglang.config import SglangConfig
from farspan.engines.sglang.pool import PoolSizes
from farspan.models.spec import AttentionKind
from farspan.planner.remarks import Remarks
from farspan.sizes import GIB, format_bytes

_RESERVE_BYTES = 10 * GIB  # HICACHE_HOST_MEMORY_RESERVE_BYTES
_HOST_FRACTION = 0.8  # --hicache-host-memory-fraction
_SLACK = 0.05  # _ALLOCATION_SLACK_FRACTION


class HicacheTier(NamedTuple):
    """The host tier of one rank: tokens and bytes, the ratio used, and why it would not start (or empty)."""

    full_tokens: int
    window_tokens: int
    bytes: int
    ratio: float
    refusal: str


def host_tier(config: SglangConfig, sizes: PoolSizes, host_memory_bytes: int | None) -> HicacheTier | None:
    """Size the host pools (`HostKVCache.__init__`, and `auto_size_hicache`, which shrinks the default ratio).

    `host_memory_bytes` is the machine's free RAM for all ranks, when known. None without HiCache.
    """
    asked = config.given.hicache
    if asked is None:
        return None
    rules, layout, ranks, page = config.rules, config.layout, config.tp, config.resolved.page_size
    full_cell = layout.full_layers * layout.stored_layer_bytes + layout.indexer_bytes
    window_cell = layout.window_cell_bytes
    ratio = asked.ratio
    budget = None if host_memory_bytes is None else host_memory_bytes - _RESERVE_BYTES
    if rules.hicache_auto_sizes and not asked.explicit and budget is not None:
        on_device = sizes.full_tokens * full_cell + sizes.window_tokens * window_cell
        ratio = max(0.0, min(ratio, budget / ranks * _HOST_FRACTION * (1 - _SLACK) / on_device))
    full = _host_tokens(sizes.full_tokens, ratio, asked.size_gb, full_cell, page)
    window = _host_tokens(sizes.window_tokens, ratio, 0, window_cell, page) if sizes.window_tokens else 0
    total = full * full_cell + window * window_cell
    refusal = ""
    if rules.hicache_must_exceed_device and full <= sizes.full_tokens:
        refusal = (
            f"the HiCache pool of {full:,} tokens is not larger than the GPU's {sizes.full_tokens:,}, which "
            f"{rules.version} refuses"
        )
    elif budget is not None and total * (1 if rules.hicache_must_exceed_device else ranks) > budget:
        refusal = (
            f"HiCache asks for {format_bytes(total)} a rank, {format_bytes(total * ranks)} in all, and the "
            f"machine has {format_bytes(max(budget, 0))} after a reserve of 10 GiB"
        )
    return HicacheTier(full, window, total, ratio, refusal)


def hicache_remarks(config: SglangConfig) -> Remarks:
    """What HiCache does not do, and where it goes wrong."""
    if config.given.hicache is None:
        return Remarks()
    rules = config.rules
    found = []
    note = (
        "HiCache keeps finished prefixes in RAM for reuse; it does not raise the longest request: every "
        "token of a running request must be in the GPU's pool."
    )
    if rules.hybrid_flag and config.layout.window_layers > 0:
        found.append(f"{rules.version} cannot combine HiCache with --hybrid-kvcache-ratio.")
    chunked = any(layer.attention is AttentionKind.CHUNKED_LOCAL for layer in config.model.layers)
    if rules.hicache_moves_decode and chunked and config.resolved.decode_backend == "flashinfer":
        found.append(
            f"HiCache's default I/O backend switches decode to FlashInfer in {rules.version}, which gives "
            "every layer of Llama 4 full attention: answers are silently wrong past 8192 tokens. Add "
            "--decode-attention-backend fa3."
        )
    return Remarks(tuple(found), (note,))


def _host_tokens(device_tokens: int, ratio: float, size_gb: int, cell: int, page: int) -> int:
    """Tokens of one host pool: a fixed size in 1e9 bytes, or a ratio; one page more than fits exactly."""
    tokens = int(size_gb * 1e9 // cell) if size_gb > 0 else int(device_tokens * ratio)
    return (tokens // page + 1) * page
