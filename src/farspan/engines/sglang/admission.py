"""Which requests a started SGLang server takes, and how many at once."""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.sglang.config import SglangConfig
from farspan.engines.sglang.pool import PoolSizes, window_tokens_per_request


class Admission(NamedTuple):
    """Limits of a started server, in tokens.

    Args:
        longest_prompt: Longest prompt accepted; one token more is answered with HTTP 400.
        longest_request: Longest prompt and answer together the pools can serve, whatever the context length.
        concurrency: Requests of the context length that run at once, a ratio.
        hangs_above: A prompt longer than this waits for ever without an error; 0 when none does.
    """

    longest_prompt: int
    longest_request: int
    concurrency: float
    hangs_above: int


def admission(
    config: SglangConfig, sizes: PoolSizes, rows: int, context_length: int, request_tokens: int
) -> Admission:
    """Limits for requests of `request_tokens`, prompt and answer together.

    A prompt must be shorter than min(context, pool) - 1 - 5 (tp_worker.py: max_req_input_len;
    managers/utils.py: validate_input_length), prompt and answer shorter than min(context, pool) - 1
    (scheduler.py: init_req_max_new_tokens). Up to 0.5.10 the whole prompt must also fit the window pool
    (schedule_policy.py: rem_total_tokens); later only the requests' windows and two chunks in flight.
    """
    rules, chunk, page_size = config.rules, config.resolved.chunked_prefill_size, config.resolved.page_size
    pool = sizes.full_tokens * config.given.context_ranks
    # validate_input_length refuses len >= min(context, pool) - 1 - 5.
    longest_prompt = min(context_length, pool) - 1 - 5 - 1
    longest = pool - 2
    concurrency = pool / request_tokens
    hangs = 0
    if sizes.window_tokens and rules.admits_by_smaller_pool:
        longest = min(longest, sizes.window_tokens - 1)
        concurrency = min(concurrency, sizes.window_tokens / request_tokens)
        if sizes.window_tokens < longest_prompt:
            hangs = sizes.window_tokens
    elif sizes.window_tokens:
        held = min(request_tokens, window_tokens_per_request(config.layout, page_size))
        in_flight = (2 if config.given.overlap else 1) * max(chunk, 0) + page_size
        # However small the pool, one request runs: its chunks are cut to what is free (_swa_chunk_cap).
        concurrency = min(concurrency, max(1.0, (sizes.window_tokens - in_flight) / held))
        if chunk <= 0:
            longest = min(longest, sizes.window_tokens - config.layout.window - page_size)
    return Admission(longest_prompt, longest, min(concurrency, float(rows)), hangs)
