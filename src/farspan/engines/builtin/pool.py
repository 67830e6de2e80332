"""What a number of bytes of the built-in engine's KV cache holds, and the other way round."""

from __future__ import annotations

from functools import lru_cache

from farspan.kv.sizing import CacheSize
from farspan.planner.bisection import last_holding


@lru_cache(maxsize=256)
def longest_sequence(size: CacheSize, cap: int) -> int:
    """Most positions one sequence may have when all of it may take `cap` bytes."""
    # A position takes at least a byte.
    return last_holding(1, max(0, cap), lambda positions: size.needed_bytes(positions) <= cap)


def bytes_of(size: CacheSize, context: int, sequences: int) -> int:
    """Bytes that so many sequences of `context` positions take together, in whole segments."""
    pages = [max(1, count) * sequences for count in size.pages(context)]
    return size.segment_count(pages) * size.segment_bytes


def concurrent_sequences(size: CacheSize, context: int, cap: int) -> float:
    """How many sequences of `context` positions fit `cap` bytes, segments counted as divisible."""
    pages = size.pages(context)
    one = sum(
        count / size.pages_per_segment * kind.layers for kind, count in zip(size.kinds, pages, strict=True)
    )
    return max(0, cap) / size.segment_bytes / one
