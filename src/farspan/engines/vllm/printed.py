"""The figures vLLM prints once its KV cache is laid out, in its own words."""

from __future__ import annotations

from farspan.engines.vllm.pool import VllmKvLayout
from farspan.engines.vllm.state import VllmState
from farspan.engines.vllm.versions import SizeLine

SIZE_KEY = "GPU KV cache size"


def printed_figures(state: VllmState, *, starts: bool) -> dict[str, int | float | str]:
    """The figures vLLM prints at start, by its own words; its refusal's estimate when it does not start."""
    memory, length = state.memory, state.max_model_len
    layout, available, in_flight = memory.layout, memory.available, memory.in_flight
    printed: dict[str, int | float | str] = dict(memory.printed)
    if available <= 0 or memory.num_blocks <= 0:
        return printed
    if not starts and not layout.passes_check(available, length, in_flight):
        estimate = layout.estimated_max_model_len(available, length, in_flight)
        return {**printed, "estimated maximum model length": estimate}
    same = length == state.request.context
    ratio = state.max_concurrency if same else layout.concurrency(memory.num_blocks, length, in_flight)
    printed[SIZE_KEY] = size_tokens(layout, memory.num_blocks, length, ratio)
    printed[concurrency_key(length)] = round(ratio, 2)
    return printed


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
        return num_blocks // len(layout.groups) * layout.block_size * layout.context_ranks
    return int(concurrency * max_model_len)
