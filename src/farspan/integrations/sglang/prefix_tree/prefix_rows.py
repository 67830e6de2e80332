"""A request's prefix as SGLang wants to have it at each chunk: an int64 tensor of all slots, which only grows."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.integrations.sglang.prefix_tree.stretch import Place


def token_array(tokens: Any) -> NDArray[np.int64]:
    """Return token ids as int64, a view where they are an array of such; it must not outlive the caller's step.

    An `array` cannot grow while somebody looks at it.
    """
    if isinstance(tokens, array) and tokens.typecode == "q":
        return np.frombuffer(tokens, dtype=np.int64) if len(tokens) else np.empty(0, dtype=np.int64)
    return np.asarray(tokens, dtype=np.int64)


def tokens_between(origin: Any, output: Any, start: int, stop: int) -> NDArray[np.int64]:
    """Return tokens [start, stop) of a prompt and its answer, without putting the two together."""
    border = len(origin)
    return np.concatenate(
        [
            token_array(origin[start : min(stop, border)]),
            token_array(output[max(0, start - border) : max(0, stop - border)]),
        ]
    )


def grown_prefix(
    place: Place, before: torch.Tensor, row: torch.Tensor, start: int, room: int
) -> torch.Tensor:
    """Return `before[:start]` with the slots of `row` behind it; what was copied once is not copied again.

    Args:
        place: The request's; keeps the buffer.
        before: What the request had until now.
        row: Its slots from `start` on.
        start: How many of `before` still hold.
        room: Slots the request's prompt will have.
    """
    stop = start + len(row)
    buffer = place.buffer
    if buffer is None or len(buffer) < stop:
        buffer = torch.empty(max(room, stop), dtype=torch.int64, device=row.device)
        buffer[:start] = before[:start]
        place.buffer = buffer
    buffer[start:stop] = row
    return buffer[:stop]
