"""The engine's own capacity figures, restated so that nobody has to know what each version means by them."""

from __future__ import annotations

from collections.abc import Iterator

from farspan.engines.logs.server_state import ServerState
from farspan.sizes import GIB, format_bytes

# figure -> what it is, for the reader of the JSON.
PLAIN = {
    "weights_gib": "memory of the weights on one GPU, GiB",
    "weights_s": "time to load the weights, s",
    "encoder_tokens": "tokens of images or video the encoder cache holds",
    "weight_read_s": "time to read the weights from disk, s",
    "compile_s": "time of torch.compile, s",
    "graphs_gib": "memory of the CUDA graphs on one GPU, GiB",
    "graphs_estimated_gib": "memory kept back for CUDA graphs on one GPU, GiB",
    "graphs_s": "time to capture the CUDA graphs, s",
    "init_engine_s": "time from loaded weights to ready engine, s",
    "available_kv_gib": "memory left for KV on one GPU, GiB",
    "kv_cache_tokens": "vLLM's 'KV cache size', tokens",
    "max_model_len": "longest request allowed, tokens",
    "max_concurrency": "requests of the longest length at once",
    "full_layer_tokens": "tokens the full-attention layers hold",
    "swa_layer_tokens": "tokens the sliding-window or chunked layers hold",
    "kv_pool_gib": "memory of the KV pools on one GPU, GiB",
    "free_before_gib": "free memory before the weights, GiB",
    "free_after_pools_gib": "free memory after the KV pools, GiB",
    "max_total_num_tokens": "tokens the KV pool holds",
    "chunked_prefill_size": "tokens of one prefill chunk",
    "max_prefill_tokens": "tokens of one prefill batch",
    "max_running_requests": "requests at once",
    "context_len": "longest request allowed, tokens",
    "elastic_held_gib": "memory the elastic KV cache and tables held when the log last said, GiB",
    "elastic_allowed_gib": "the most they could hold then, GiB",
    "elastic_neighbours_gib": "what other servers of the same budget held then, GiB",
    "free_when_ready_gib": "free memory when ready, GiB",
}


def plain_terms(server_state: ServerState) -> list[str]:
    """The figures as sentences, the one that matters most first."""
    return [*_vllm(server_state), *_sglang(server_state), *_memory(server_state), *_elastic(server_state)]


def _vllm(server_state: ServerState) -> Iterator[str]:
    figures = server_state.figures
    length, ratio = figures.get("max_model_len"), figures.get("max_concurrency")
    if length is not None and ratio is not None:
        whole = int(ratio)
        if ratio < 1:
            yield (
                f"Not even one request of {length:,.0f} tokens fits: the KV cache holds {ratio:.0%} of it "
                f"(concurrency {ratio:.2f}x)."
            )
        else:
            yield (
                f"{whole} request{'s' if whole > 1 else ''} of {length:,.0f} tokens fit{'' if whole > 1 else 's'} at "
                f"once (concurrency {ratio:.2f}x)."
            )
    tokens = figures.get("kv_cache_tokens")
    if tokens is None:
        return
    by_length = server_state.version_below("0.21.0")
    if by_length is None:
        yield (
            f"'KV cache size: {tokens:,.0f} tokens' means different things by version: to 0.20 it counts "
            "tokens as if "
            "every layer kept all of them, later it is concurrency x max-model-len. Read the concurrency instead."
        )
    elif by_length:
        yield (
            f"'KV cache size: {tokens:,.0f} tokens' is what fits if every layer keeps every token. A model with "
            "sliding-window or chunked layers holds longer requests when hybrid KV groups are on: read "
            "the concurrency."
        )
    else:
        yield (
            f"'KV cache size: {tokens:,.0f} tokens' is concurrency x max-model-len: it changes with --max-model-len "
            "though the memory does not."
        )


def _sglang(server_state: ServerState) -> Iterator[str]:
    figures = server_state.figures
    pool = figures.get("max_total_num_tokens", figures.get("full_layer_tokens"))
    context = figures.get("context_len") or server_state.number("context_length")
    if pool is not None:
        words = f"The KV pool holds {pool:,.0f} tokens of all requests together"
        if context:
            longest = int(min(context, pool)) - 6
            words += (
                f"; the longest prompt taken is {longest:,} tokens (the smaller of pool and context, less 6)"
            )
            if context > pool:
                words += (
                    f". The context length of {context:,.0f} is more than the pool: such a request is refused"
                )
        yield words + "."
    full, window = figures.get("full_layer_tokens"), figures.get("swa_layer_tokens")
    if full and window:
        yield (
            f"Full-attention layers hold {full:,.0f} tokens, window layers {window:,.0f} "
            f"(--swa-full-tokens-ratio {window / full:.2f}); one long request needs the first, and of the "
            "second only "
            "its window."
        )
    rows = figures.get("max_running_requests")
    if rows and context and "elastic_held_gib" not in figures:
        table = (rows + 1) * (context + 4) * 4 / GIB
        if table >= 0.5:
            yield (
                f"The request-to-token table takes {table:.1f} GiB a GPU ({rows:,.0f} rows of {context:,.0f} tokens, "
                "4 bytes each), outside --mem-fraction-static."
            )


def _elastic(server_state: ServerState) -> Iterator[str]:
    figures = server_state.figures
    held, allowed = figures.get("elastic_held_gib"), figures.get("elastic_allowed_gib")
    if held is None or allowed is None:
        return
    others = figures.get("elastic_neighbours_gib")
    beside = "" if others is None else f"; other servers of its budget held {format_bytes(others * GIB)}"
    yield (
        f"The elastic KV cache held {format_bytes(held * GIB)} when the log last said, and could hold "
        f"{format_bytes(allowed * GIB)}{beside}."
    )


def _memory(server_state: ServerState) -> Iterator[str]:
    figures = server_state.figures
    weights = figures.get("weights_gib")
    if weights is not None:
        seconds = figures.get("weights_s") or 0.0
        speed = f" in {seconds:.0f} s ({weights / seconds:.2f} GiB/s a GPU)" if seconds >= 1 else ""
        size = f"{weights:.1f} GiB" if weights >= 1 else format_bytes(weights * GIB)
        yield f"Weights take {size} on a GPU{speed}."
    kv = figures.get("available_kv_gib", figures.get("kv_pool_gib"))
    if kv is not None:
        yield f"KV gets {kv:.1f} GiB on a GPU."
    free = figures.get("free_when_ready_gib")
    if free is not None:
        yield f"{free:.1f} GiB of each GPU stay free for activations and graphs."
