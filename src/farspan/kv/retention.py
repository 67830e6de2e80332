"""Which positions each kind of layer must keep, and how much of a prefix hit they leave usable.

A token at position p attends to [0, p] in a full layer, to [p // chunk * chunk, p] in a chunked-local one (Llama 4),
and to the last `window` positions, itself included, in a sliding-window one. What must already be held before it is
computed is the same without p.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from farspan.errors import InputError

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LayerRetention:
    """Which positions a layer must keep for the next token. Without `chunk` and `window`, all (full attention).

    Attributes:
        chunk: Only those of the chunk, of this many tokens, that the next position falls in.
        window: Only the last `window` positions, the next one counted in.
    """

    chunk: int | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and self.window is not None:
            raise InputError("a layer keeps a chunk or a window, not both")
        for name, value in (("chunk", self.chunk), ("window", self.window)):
            if value is not None and value <= 0:
                raise InputError(
                    f"a {name} of {value} tokens keeps nothing", "give a positive number of tokens"
                )

    @property
    def full(self) -> bool:
        """Whether every position is kept."""
        return self.chunk is None and self.window is None

    def first_needed(self, position: int) -> int:
        """Return the first position that a token at `position` still attends to."""
        if self.chunk is not None:
            return position // self.chunk * self.chunk
        return 0 if self.window is None else max(0, position - self.window + 1)

    def usable(self, match_length: int, held: Iterable[Interval], page_size: int = 1) -> int:
        """Return the largest prefix that the layer lets a request reuse.

        Args:
            match_length: The longest prefix wanted.
            held: Positions [start, stop) of the sequence that the layer still has, in any order.
            page_size: The result is a multiple of it.

        Returns:
            The largest p <= `match_length` for which [first_needed(p), p) is held; 0 needs nothing.
        """
        return usable([(self, held)], match_length, page_size)

    def _largest(self, limit: int, held: Sequence[Interval]) -> int:
        """Return the largest usable p <= `limit`, not rounded; `held` ascends, merged."""
        best = 0
        if self.chunk is not None:
            best = limit // self.chunk * self.chunk  # a chunk's first token needs nothing before it
        elif self.window == 1:
            return limit
        for start, stop in reversed(held):
            reach = min(limit, stop)
            if reach <= best:
                break
            if start <= self.first_needed(reach):
                return reach
        return best


def usable(
    layers: Iterable[tuple[LayerRetention, Iterable[Interval]]], match_length: int, page_size: int = 1
) -> int:
    """Return the largest prefix that every kind of layer lets a request reuse.

    Args:
        layers: Each kind's rule and the positions [start, stop) it still has.
        match_length: The longest prefix wanted.
        page_size: The result is a multiple of it.
    """
    kinds = [(rule, merge(held)) for rule, held in layers]
    length = match_length // page_size * page_size
    while length > 0:
        shorter = length
        for rule, held in kinds:
            shorter = rule._largest(shorter, held) // page_size * page_size
        if shorter == length:
            break
        length = shorter
    return length


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the same positions as ascending intervals that neither touch nor overlap; empty ones go."""
    merged: list[Interval] = []
    for start, stop in sorted(intervals):
        if stop <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
