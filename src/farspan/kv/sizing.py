"""The arithmetic of an elastic KV cache: how large a segment is and how much a sequence may take.

Pure, and free of torch, so that the planner counts with the very functions the cache runs on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from farspan.kv.retention import LayerRetention

_MIB = 1024**2

# Growing by a segment maps one in every layer of a kind. Fewer than this many growths fill the capacity coarsely;
# many more cost driver calls (0.4 to 0.6 ms a GiB in segments of 128 MiB on an H200, docs/elastic-memory.md).
_GROWTHS = 128
_LARGEST_SEGMENT = 128 * _MIB
# Pages counted together.
_BLOCK = 1024
_SMALLEST_BLOCK = 64


@dataclass(frozen=True, slots=True)
class KindSize:
    """What the arithmetic needs of the layers of one retention.

    Attributes:
        retention: Which positions they keep.
        layers: How many there are.
    """

    retention: LayerRetention
    layers: int

    def most_pages(self, max_length: int, step_tokens: int, page_tokens: int) -> int:
        """Return the most pages a sequence of `max_length` positions holds at any time.

        Layers that keep only a span hold it as it was before a step, and the step's own positions.
        """
        whole = -(-max_length // page_tokens)
        span = self.retention.chunk or self.retention.window
        if span is None:
            return whole
        # Neither end of the span needs to lie at the edge of a page.
        return min(whole, -(-(span + step_tokens) // page_tokens) + 1)


@dataclass(frozen=True, slots=True)
class CacheSize:
    """The sizes of one cache.

    Attributes:
        kinds: Its kinds of layers.
        row_bytes: Bytes of one position in one layer.
        page_tokens: Positions a page.
        segment_bytes: What one layer grows by.
        step_tokens: The most positions computed between two calls of `SequenceKV.computed`.
    """

    kinds: tuple[KindSize, ...]
    row_bytes: int
    page_tokens: int
    segment_bytes: int
    step_tokens: int

    @property
    def pages_per_segment(self) -> int:
        """Pages that one growth adds; more rows than these may begin in a segment and end in the next."""
        return fit_segment(max(1, self.segment_bytes // (self.row_bytes * self.page_tokens)))[0]

    @property
    def start_bytes(self) -> int:
        """What an idle cache holds: one segment a layer."""
        return self.segment_bytes * sum(kind.layers for kind in self.kinds)

    def pages(self, max_length: int) -> tuple[int, ...]:
        """Return the most pages of each kind that a sequence of `max_length` positions holds at any time."""
        return tuple(kind.most_pages(max_length, self.step_tokens, self.page_tokens) for kind in self.kinds)

    def segment_count(self, pages: Sequence[int]) -> int:
        """Return the segments, of all layers, that hold so many pages of each kind."""
        size, page_bytes = self.pages_per_segment, self.row_bytes * self.page_tokens
        return sum(
            -(-(-(-count // size) * size * page_bytes) // self.segment_bytes) * kind.layers
            for kind, count in zip(self.kinds, pages, strict=True)
        )

    def needed_bytes(self, max_length: int) -> int:
        """Return what one sequence of `max_length` positions takes in an empty cache, in whole segments.

        A kind holds one segment a layer even when the sequence needs none.
        """
        pages = [max(1, count) for count in self.pages(max_length)]
        return self.segment_count(pages) * self.segment_bytes


def choose_segment_bytes(
    capacity_bytes: int, layers: int, granularity: int, wanted: int | None = None
) -> int:
    """Return how much one layer grows by, in whole units of the driver.

    Args:
        capacity_bytes: The most the cache may take.
        layers: Layers of all kinds.
        granularity: The driver's smallest unit, bytes.
        wanted: A size to come close to, bytes; None for one that suits the capacity.
    """
    target = wanted or min(_LARGEST_SEGMENT, capacity_bytes // (_GROWTHS * layers))
    return granularity * max(1, target // granularity)


@lru_cache(maxsize=256)
def fit_segment(most_pages: int) -> tuple[int, int]:
    """Return (pages of a segment, pages of a block): the most of at most `most_pages` that blocks divide evenly."""
    block = max(size for size in range(1, min(_BLOCK, most_pages) + 1) if most_pages % size == 0)
    if block >= min(_SMALLEST_BLOCK, most_pages):
        return most_pages, block
    return most_pages - most_pages % _SMALLEST_BLOCK, _SMALLEST_BLOCK
