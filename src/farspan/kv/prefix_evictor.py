"""Prefixes that nobody uses, as memory that a pool which must shrink can have."""

from __future__ import annotations

from collections.abc import Sequence

from farspan.kv.kinds import LayerKind
from farspan.kv.prefixes import PrefixStore
from farspan.kv.sizing import CacheSize


class PrefixEvictor:
    """An `Evictor` of a cache's prefixes.

    Args:
        prefixes: The prefixes.
        kinds: The kinds of layers whose pages they have.
        size: The sizes of the cache.
    """

    def __init__(self, prefixes: PrefixStore, kinds: Sequence[LayerKind], size: CacheSize) -> None:
        self._prefixes = prefixes
        self._kinds = kinds
        self._size = size

    def evictable(self) -> int:
        """See `Evictor.evictable`."""
        return sum(self._evictable_bytes()) // self._size.segment_bytes

    def evict(self, count: int) -> bool:
        """See `Evictor.evict`; the kind with the most to let go of goes first."""
        bytes_of = self._evictable_bytes()
        largest = bytes_of.index(max(bytes_of))
        pages = -(-count * self._size.segment_bytes // self._kinds[largest].page_bytes)
        return self._prefixes.evict(largest, pages)

    def _evictable_bytes(self) -> list[int]:
        """Return the bytes of each kind's evictable pages."""
        return [self._prefixes.evictable(index) * kind.page_bytes for index, kind in enumerate(self._kinds)]
