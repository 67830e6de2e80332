"""The longest request a vLLM server's KV cache holds, by its log's own figures: never rounded up."""

from __future__ import annotations

from farspan.engines.logs.planned_server import planned
from farspan.engines.logs.server_state import ServerState

_ROUNDING = 0.005  # the concurrency is logged with two decimals


def longest_request(server_state: ServerState) -> int | None:
    """In tokens: the planner's where it knows the server and is lower, else the log's; None when it does not say."""
    figures = server_state.figures
    ratio, length = figures.get("max_concurrency"), figures.get("max_model_len")
    if ratio is None or length is None or ratio >= 1:
        return None
    tokens = figures.get("kv_cache_tokens")
    least = int((ratio - _ROUNDING) * length)
    if tokens is not None and abs(tokens / length - ratio) <= 2 * _ROUNDING:
        least = int(tokens)  # every layer keeps every token: the cache's size is the longest request
    plan = planned(server_state)
    if plan is not None and 0 < plan.longest < length:
        return min(least, plan.longest)
    return least
