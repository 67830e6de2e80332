"""The figures vLLM prints once its KV cache is laid out, in its own words."""

from __future__ import annotations

from farspan.engines.vllm.pool import VllmKvLayout
from farspan.engines.vllm.versions import SizeLine

SIZE_KEY = "GPU KV cache size"


def concurrency_key(max_model_len: int) -> str:
    """The words before the concurrency figure."""
    return f"Maximum concurrency for {max_model_len:,} tokens per request"


def kv_cache_size_tokens(layout: VllmKvLayout, num_blocks: int, max_model_len: int, in_flight: int) -> int:
    """Tokens in "GPU KV cache size: N tokens".

    To 0.20 vllm v1/core/kv_cache_utils.py: _report_kv_cache_config; later get_kv_cache_capacity.
    """
    return size_tokens(
        layout, num_blocks, max_model_len, layout.concurrency(num_blocks, max_model_len, in_flight)
    )


def size_tokens(layout: VllmKvLayout, num_blocks: int, max_model_len: int, concurrency: float) -> int:
    """The same, where the concurrency is known already."""
    if layout.rules.size_line is SizeLine.DIVIDED:
        return num_blocks // len(layout.groups) * layout.block_size
    return int(concurrency * max_model_len)


def size_lines(layout: VllmKvLayout, num_blocks: int, max_model_len: int, in_flight: int) -> tuple[str, ...]:
    """The lines of the log, without time stamps: two of them, one from 0.29.0."""
    size = f"{SIZE_KEY}: {kv_cache_size_tokens(layout, num_blocks, max_model_len, in_flight):,} tokens"
    ratio = layout.concurrency(num_blocks, max_model_len, in_flight)
    concurrency = f"{concurrency_key(max_model_len)}: {ratio:.2f}x"
    if layout.rules.size_line is SizeLine.ONE_LINE:
        return (f"{size}, {concurrency}",)
    return (size, concurrency)
