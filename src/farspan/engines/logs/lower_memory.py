"""What takes less GPU memory than the log's own settings: never more, and never what is set already."""

from __future__ import annotations

from farspan.engines.logs.server_state import ServerState

_STEP = 0.05
_LEAST_SHARE = 0.3
_MOST_SHARE = 0.94
_SMALL_BATCH = 2048
_SHARE_FLAGS = (
    ("mem_fraction_static", "--mem-fraction-static"),
    ("gpu_memory_utilization", "--gpu-memory-utilization"),
)
_BATCH_FLAGS = (
    ("chunked_prefill_size", "--chunked-prefill-size"),
    ("max_num_batched_tokens", "--max-num-batched-tokens"),
)


def lower_share(server_state: ServerState) -> str:
    """A smaller share of the GPU for weights and KV cache, as a flag; with its value where the log says the present."""
    for name, flag in _SHARE_FLAGS:
        share = server_state.number(name)
        if share is not None and share - _STEP >= _LEAST_SHARE:
            return f"{flag} {share - _STEP:.2f}"
    sglang = server_state.engine == "sglang"
    return (
        f"a lower {_SHARE_FLAGS[0 if sglang else 1][1]}{'' if sglang else ' (the default is 0.90 to 0.92)'}"
    )


def higher_share(server_state: ServerState) -> str:
    """A larger share of the GPU for weights and KV cache; empty where it is as large as goes."""
    for name, flag in _SHARE_FLAGS:
        share = server_state.number(name)
        if share is not None:
            return (
                f"raise {flag} from {share:g} (not above {_MOST_SHARE:g})"
                if share < _MOST_SHARE - 0.01
                else ""
            )
    return (
        ""
        if server_state.engine == "sglang"
        else f"raise --gpu-memory-utilization (not above {_MOST_SHARE:g})"
    )


def smaller_batch(server_state: ServerState) -> str:
    """Fewer tokens a step, which makes activations smaller."""
    for name, flag in _BATCH_FLAGS:
        tokens = server_state.number(name)
        if tokens is not None and tokens > _SMALL_BATCH:
            return f"{flag} {max(int(tokens) // 2, _SMALL_BATCH)}: smaller activations"
    flag = _BATCH_FLAGS[0 if server_state.engine == "sglang" else 1][1]
    if any(server_state.number(name) for name, _ in _BATCH_FLAGS):
        return "a smaller model or more GPUs: the batch is small already"
    return f"{flag} {_SMALL_BATCH}: smaller activations"
