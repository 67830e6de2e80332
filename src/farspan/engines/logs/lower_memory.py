"""What takes less GPU memory than the log's own settings: never more, and never what is set already.

The flags are the engine's; of a log that does not show its engine, every engine's.
"""

from __future__ import annotations

from farspan.engines.engine import Engine
from farspan.engines.logs.server_state import ServerState
from farspan.engines.registry import all_engines, find_served

_STEP = 0.05
_LEAST_SHARE = 0.3
_MOST_SHARE = 0.94
_SMALL_BATCH = 2048


def _engines(server_state: ServerState) -> tuple[Engine, ...]:
    known = find_served(server_state.engine)
    return (known,) if known is not None else all_engines()


def _setting(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def lower_share(server_state: ServerState) -> str:
    """A smaller share of the GPU for weights and KV cache, as a flag; with its value where that is known."""
    return ", or ".join(lower_shares(server_state)) or "less memory for weights and KV cache"


def lower_shares(server_state: ServerState) -> tuple[str, ...]:
    """The same, one item an engine that it may be."""
    words = []
    for engine in _engines(server_state):
        flag = engine.memory_share_flag
        if not flag:
            continue
        share = server_state.number(_setting(flag)) or engine.memory_share
        known = share is not None and share - _STEP >= _LEAST_SHARE
        words.append(f"{flag} {share - _STEP:.2f}" if known and share is not None else f"a lower {flag}")
    return tuple(words)


def higher_share(server_state: ServerState) -> str:
    """A larger share of the GPU for weights and KV cache; empty where it is as large as goes."""
    for engine in _engines(server_state):
        flag = engine.memory_share_flag
        share = server_state.number(_setting(flag)) if flag else None
        if share is not None:
            return (
                f"raise {flag} from {share:g} (not above {_MOST_SHARE:g})"
                if share < _MOST_SHARE - 0.01
                else ""
            )
    known = [engine.memory_share_flag for engine in _engines(server_state) if engine.memory_share_flag]
    return f"raise {' or '.join(known)} (not above {_MOST_SHARE:g})" if known else ""


def smaller_batch(server_state: ServerState) -> str:
    """Fewer tokens a step, which makes activations smaller."""
    words = []
    for engine in _engines(server_state):
        flag = engine.step_tokens_flag
        if not flag:
            continue
        tokens = server_state.number(_setting(flag))
        if tokens is None:
            words.append(f"{flag} {_SMALL_BATCH}")
        elif tokens > _SMALL_BATCH:
            words.append(f"{flag} {max(int(tokens) // 2, _SMALL_BATCH)}")
        else:
            return "a smaller model or more GPUs: the batch is small already"
    return f"{', or '.join(words)}: smaller activations" if words else "smaller batches"


def eager_flags(server_state: ServerState) -> str:
    """The flags that start without CUDA graphs."""
    found = [" ".join(engine.eager_flags) for engine in _engines(server_state) if engine.eager_flags]
    return " or ".join(found)
