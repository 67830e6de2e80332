"""One open sequence of an elastic KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from farspan.kv.interface import KVCacheError, NoRoomError, PageRun, SequenceKV
from farspan.kv.sequence_pages import Extent, PageTable

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from farspan.kv.formats import LayerStore
    from farspan.kv.prefixes import Hit, PrefixStore
    from farspan.kv.retention import LayerRetention
    from farspan.kv.tree.radix import Cursor, SecondaryPages

# Runs shorter than this are copied together and attended to in one call rather than one by one: on a CPU where the call
# costs more than the copy, on a GPU where launching kernels does (about 0.1 ms, in which it copies 100 MB or more).
_SHORT_RUN = {"cpu": 512, "cuda": 32768}
_GATHERED = 65536
# Slices shorter than this are copied by their slots' numbers.
_SLICE = 256


class _OwningCache(Protocol):
    """What a sequence needs of the cache that it was opened on; `ElasticKVCache` says what each does."""

    @property
    def page_tokens(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def prefixes(self) -> PrefixStore | None: ...

    def layer(self, number: int) -> tuple[int, LayerStore]: ...

    def read_check(self, layer: int) -> Callable[[int, int, int], None] | None: ...

    def retention(self, kind: int) -> LayerRetention: ...

    def take_pages(self, kind: int, count: int, after: int | None = None) -> NDArray[np.int32]: ...

    def share_pages(self, kind: int, pages: NDArray[np.int32]) -> None: ...

    def free_pages(self, kind: int, pages: NDArray[np.int32]) -> None: ...

    def on_device(self, slots: NDArray[np.int64]) -> torch.Tensor: ...

    def compact(self) -> bool: ...

    def forget(self, sequence: ElasticSequenceKV) -> None: ...


class ElasticSequenceKV(SequenceKV):
    """The keys and values of one sequence: a page table a kind of layers, on pages it may share with others."""

    def __init__(
        self,
        cache: _OwningCache,
        max_length: int,
        limits: tuple[int, ...],
        hit: Hit,
        pages: tuple[SecondaryPages, ...],
    ) -> None:
        self._cache = cache
        self._max_length = max_length
        self._limits = limits
        self._cursor: Cursor | None = hit.cursor
        self._cached = hit.length
        self._length = hit.length
        self._kept = hit.length  # positions that later requests can find
        self._tail = np.empty(0, np.int32)  # computed tokens after those: less than a page
        self._tables = [PageTable(cache.page_tokens, held.start) for held in pages]
        for table, held in zip(self._tables, pages, strict=True):
            table.append(held.pages)
        self._open = True

    @property
    def cached_tokens(self) -> int:
        """See `SequenceKV.cached_tokens`."""
        return self._cached

    @property
    def length(self) -> int:
        """See `SequenceKV.length`."""
        return self._length

    def promised_pages(self, kind: int) -> int:
        """Return how many more pages of a kind the sequence may need."""
        return max(0, self._limits[kind] - len(self._tables[kind])) if self._open else 0

    def held_pages(self, kind: int) -> NDArray[np.int32]:
        """Return the pages of a kind that the sequence holds."""
        return self._tables[kind].held()

    def table(self, kind: int) -> PageTable:
        """Return the pages of a kind that the sequence holds, as a table."""
        return self._tables[kind]

    def append(self, count: int) -> None:
        """See `SequenceKV.append`."""
        length = self._length + count
        if length > self._max_length:
            raise KVCacheError(
                f"the sequence was opened for {self._max_length} tokens and would reach {length}"
            )
        pages = -(-length // self._cache.page_tokens)
        while True:
            try:
                taken = self._take(pages)
                break
            except NoRoomError:
                if not self._cache.compact():
                    raise
        for kind, given in taken:
            self._tables[kind].append(given)
        self._length = length

    def _take(self, pages: int) -> list[tuple[int, NDArray[np.int32]]]:
        """Return, for each kind, the pages that are missing up to page number `pages`; all or none."""
        taken: list[tuple[int, NDArray[np.int32]]] = []
        try:
            # Layers that keep a span first: between steps their pages are free, and would otherwise lose their memory
            # to the layers that keep everything and want it back, step after step.
            for kind, table in reversed(list(enumerate(self._tables))):
                given = self._cache.take_pages(kind, pages - table.stop_page, after=table.last)
                taken.append((kind, given))
        except BaseException:
            for kind, given in taken:
                self._cache.free_pages(kind, given)
            raise
        return taken

    def write(self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See `SequenceKV.write`."""
        kind, store = self._cache.layer(layer)
        done = 0
        for _, slot, count in self._extents(kind, start, start + len(key)):
            store.write(slot, key[done : done + count], value[done : done + count])
            done += count

    def runs(self, layer: int, start: int, stop: int) -> Iterator[PageRun]:
        """See `SequenceKV.runs`.

        Long runs are views of the cache's memory; short ones, of which a sequence that grew beside others has many,
        are copied together.
        """
        kind, store = self._cache.layer(layer)
        check = self._cache.read_check(layer)
        shortest = _SHORT_RUN[self._cache.device.type]
        short: list[tuple[int, int]] = []
        gathered = 0
        for position, slot, count in self._extents(kind, start, stop):
            if check is not None:
                check(position, slot, count)
            if count < shortest and gathered + count <= _GATHERED:
                short.append((slot, count))
                gathered += count
                continue
            yield from self._together(layer, short)
            short, gathered = [], 0
            if count < shortest:
                short, gathered = [(slot, count)], count
            else:
                yield from store.read(slot, count)
        yield from self._together(layer, short)

    def computed(self, token_ids: NDArray[np.int32]) -> None:
        """See `SequenceKV.computed`."""
        self._tail = np.concatenate((self._tail, token_ids)) if len(self._tail) else token_ids
        position = self._kept + len(self._tail)
        assert position <= self._length, "more was computed than there is room for"
        whole = len(self._tail) // self._cache.page_tokens * self._cache.page_tokens
        if whole and self._cursor is not None:
            self._keep(self._tail[:whole])
        if whole:
            self._kept += whole
            # A copy: the tail must not keep the prompt it was cut from alive.
            self._tail = self._tail[whole:].copy()
        for kind, table in enumerate(self._tables):
            first = self._cache.retention(kind).first_needed(position)
            self._cache.free_pages(kind, table.drop_before(first))

    def close(self) -> None:
        """See `SequenceKV.close`."""
        if not self._open:
            return
        if self._cursor is not None:
            self._prefixes.keep_secondary(self._cursor, self._tables)
            self._prefixes.release(self._cursor)
            self._cursor = None
        for kind, table in enumerate(self._tables):
            self._cache.free_pages(kind, table.held())
        self._cache.forget(self)
        self._tables = [PageTable(self._cache.page_tokens) for _ in self._tables]
        self._length = 0
        self._open = False

    def check_integrity(self) -> None:
        """Raise AssertionError when a table has a gap or holds more than was promised."""
        pages = -(-self._length // self._cache.page_tokens)
        for kind, table in enumerate(self._tables):
            table.check_integrity()
            assert table.stop_page == pages, "every appended position has a page"
            assert len(table) <= self._limits[kind], "a sequence holds more than it was promised"
            first = self._cache.retention(kind).first_needed(self._kept + len(self._tail))
            assert table.first_page * self._cache.page_tokens <= first, "a page that is needed was let go"

    def _keep(self, tokens: NDArray[np.int32]) -> None:
        """Let later requests find whole pages; where another sequence was first, its pages are used from now on."""
        assert self._cursor is not None
        first = self._kept // self._cache.page_tokens
        table = self._tables[0]
        own = table.pages(first, first + len(tokens) // self._cache.page_tokens)
        existing = self._prefixes.keep(self._cursor, tokens, own)
        if len(existing):
            self._cache.share_pages(0, existing)
            self._cache.free_pages(0, table.replace(first, existing))

    @property
    def _prefixes(self) -> PrefixStore:
        assert self._cache.prefixes is not None
        return self._cache.prefixes

    def _extents(self, kind: int, start: int, stop: int) -> list[Extent]:
        assert stop <= self._length, f"positions [{start}, {stop}) are not held"
        return self._tables[kind].extents(start, stop)

    def _together(self, layer: int, short: list[tuple[int, int]]) -> Iterator[PageRun]:
        _, store = self._cache.layer(layer)
        if len(short) == 1:
            yield from store.read(*short[0])
        elif short and sum(count for _, count in short) >= _SLICE * len(short):
            yield from store.join(short)
        elif short:
            slots = np.concatenate([np.arange(slot, slot + count) for slot, count in short])
            yield from store.gather(self._cache.on_device(slots))
