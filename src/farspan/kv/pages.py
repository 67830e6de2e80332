"""Pages: what sequences are made of, handed out from segments that come and go underneath."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from farspan.kv.drivers.driver import Fence, Handle, NoRoomError
from farspan.kv.segments import SegmentedRange, SegmentPool

if TYPE_CHECKING:
    import torch

_NONE = np.empty(0, np.int32)


class PagePool:
    """Pages of one kind of layers: a page is the same slots in every layer.

    Segment `s` of each layer's range holds pages [s x pages_per_segment, (s+1) x pages_per_segment). Growing maps one
    segment in every layer or none. Pages are handed out from the lowest segments, so that the highest ones empty and
    can go.

    Args:
        segments: Where memory comes from; its segments hold a whole number of pages.
        row_bytes: For each layer, the bytes of one position.
        page_tokens: Positions a page.
        max_pages: The most pages there are addresses for.
    """

    def __init__(
        self, segments: SegmentPool, row_bytes: Sequence[int], page_tokens: int, max_pages: int
    ) -> None:
        sizes = {row * page_tokens for row in row_bytes}
        assert len(sizes) == 1, "every layer of a kind has rows of one size"
        page_bytes = sizes.pop()
        assert segments.segment_bytes % page_bytes == 0, "a segment is a whole number of pages"
        self.page_tokens = page_tokens
        self.pages_per_segment = segments.segment_bytes // page_bytes
        count = max(1, -(-max_pages // self.pages_per_segment))
        self.max_pages = count * self.pages_per_segment
        self._segments = segments
        self._row_bytes = tuple(row_bytes)
        self._free = np.zeros(self.max_pages, np.bool_)
        self._references = np.zeros(self.max_pages, np.int32)
        self._free_in = np.zeros(count, np.int64)  # free pages of each segment; 0 where none is mapped
        self._mapped = np.zeros(count, np.bool_)
        self._empty: dict[int, tuple[float, Fence | None]] = {}  # since when, and after which work
        self._ranges: list[SegmentedRange] = []
        self._free_pages = 0
        self._growing = False  # its own empty segments are then about to be used
        try:
            for _ in row_bytes:
                self._ranges.append(SegmentedRange(segments.driver, segments.segment_bytes, count))
            self._map(0)
        except BaseException:
            for layer in self._ranges:
                segments.give(layer.close(), None)
            raise
        segments.add_reclaimer(self.shrink)

    @property
    def used(self) -> int:
        """Pages with at least one user."""
        return self.mapped_pages - self._free_pages

    @property
    def free_pages(self) -> int:
        """Pages that can be had without growing."""
        return self._free_pages

    @property
    def mapped_pages(self) -> int:
        """Pages with memory behind them."""
        return int(self._mapped.sum()) * self.pages_per_segment

    def available(self) -> int:
        """Return how many pages `alloc` could give now, growing as far as it can."""
        unmapped = len(self._mapped) - int(self._mapped.sum())
        growth = min(self._segments.room() // len(self._ranges), unmapped)
        return self._free_pages + growth * self.pages_per_segment

    def alloc(self, count: int, after: int | None = None) -> NDArray[np.int32] | None:
        """Return `count` pages with one user each, or None, with nothing changed, when there is no room.

        Args:
            count: How many.
            after: A page that the new ones should follow, so that a sequence lies in one piece; they do as far as the
                pages behind it are free.

        Returns:
            Page ids, int32 [count]: those that follow `after`, then the lowest free ones, each part ascending.
        """
        if count <= 0:
            return _NONE
        if count > self._free_pages and not self._grow(count - self._free_pages):
            return None
        pieces = []
        if after is not None and after + 1 < self.max_pages:
            behind = self._free[after + 1 : after + 1 + count]
            length = len(behind) if behind.all() else int(behind.argmin())
            if length:
                pieces.append(np.arange(after + 1, after + 1 + length, dtype=np.int32))
                self._take(pieces[-1])
                count -= length
        if count:
            pieces.append(self._lowest(count))
            self._take(pieces[-1])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def share(self, pages: NDArray[np.int32]) -> None:
        """Count one more user of each page; no page twice."""
        assert (self._references[pages] > 0).all(), "a page that nobody uses cannot be shared"
        self._references[pages] += 1

    def free(self, pages: NDArray[np.int32]) -> None:
        """Count one user of each page less, no page twice; without a user a page is free."""
        if not len(pages):
            return
        left = self._references[pages] - 1
        assert (left >= 0).all(), "a page is freed that nobody uses"
        self._references[pages] = left
        gone = pages[left == 0]
        if not len(gone):
            return
        self._free[gone] = True
        self._free_pages += len(gone)
        numbers = gone // self.pages_per_segment
        self._free_in += np.bincount(numbers, minlength=len(self._free_in))
        touched = np.unique(numbers)
        emptied = touched[self._free_in[touched] == self.pages_per_segment].tolist()
        if emptied:
            now, fence = self._segments.clock(), self._segments.driver.fence()
            self._empty.update((number, (now, fence)) for number in emptied)

    def references(self, pages: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return how many users each page has."""
        return self._references[pages]

    def writable(self, page: int) -> bool:
        """Whether a page has one user, who may write it; otherwise it must be copied first."""
        return bool(self._references[page] == 1)

    def occupancy(self) -> NDArray[np.int64]:
        """Return the used pages of each segment; 0 where none is mapped."""
        return np.where(self._mapped, self.pages_per_segment - self._free_in, 0)

    def pressure(self, pages: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return, for each page, how near its segment is to being empty: from 0, full, to almost 1."""
        return self._free_in[pages // self.pages_per_segment] / self.pages_per_segment

    def layer(self, index: int) -> torch.Tensor:
        """Return a layer's slots, uint8 [max_pages x page_tokens, row_bytes]; only mapped pages may be touched."""
        return self._ranges[index].tensor().view(-1, self._row_bytes[index])

    def tick(self) -> None:
        """Take away segments that have been empty for the quiet time and that the device no longer uses."""
        now = self._segments.clock()
        for number, (since, fence) in list(self._empty.items()):
            if number and now - since >= self._segments.quiet_s and (fence is None or fence.done()):
                self._unmap(number)

    def shrink(self) -> int:
        """Take away all empty segments but the first at once; return how many physical segments that gave back."""
        numbers = [] if self._growing else [number for number in self._empty if number]
        for number in numbers:
            fence = self._empty[number][1]
            if fence is not None:
                fence.wait()
            self._unmap(number)
        return len(numbers) * len(self._ranges)

    def close(self) -> None:
        """Give all memory and addresses back; nobody may use a page."""
        assert self.used == 0, "pages are still in use"
        for _, fence in self._empty.values():
            if fence is not None:
                fence.wait()
        for layer in self._ranges:
            self._segments.give(layer.close(), None)
        self._ranges = []

    def check_integrity(self) -> None:
        """Raise AssertionError when the books do not balance."""
        size = self.pages_per_segment
        mapped = np.repeat(self._mapped, size)
        assert not (self._free & ~mapped).any(), "a page is free that has no memory"
        assert not (self._references[~mapped]).any(), "a page is used that has no memory"
        assert np.array_equal(self._free[mapped], self._references[mapped] == 0), "a page is lost"
        assert np.array_equal(self._free.reshape(-1, size).sum(1), self._free_in), "a segment is miscounted"
        assert self._free_pages == int(self._free.sum()), "the free pages are miscounted"
        numbers = frozenset(np.flatnonzero(self._mapped).tolist())
        assert all(layer.mapped == numbers for layer in self._ranges), "layers differ in what is mapped"
        empty = frozenset(np.flatnonzero(self._free_in == size).tolist())
        assert frozenset(self._empty) == empty, "the empty segments are not those on the list"

    def _take(self, pages: NDArray[np.int32]) -> None:
        self._free[pages] = False
        self._references[pages] = 1
        self._free_pages -= len(pages)
        numbers = pages // self.pages_per_segment
        self._free_in -= np.bincount(numbers, minlength=len(self._free_in))
        for number in range(int(numbers.min()), int(numbers.max()) + 1):
            if self._free_in[number] < self.pages_per_segment:
                self._empty.pop(number, None)

    def _lowest(self, count: int) -> NDArray[np.int32]:
        """Return the lowest free pages; there are enough."""
        enough = int(np.searchsorted(np.cumsum(self._free_in), count)) + 1
        first = int((self._free_in > 0).argmax())
        start = first * self.pages_per_segment
        found = np.flatnonzero(self._free[start : enough * self.pages_per_segment])[:count]
        return (found + start).astype(np.int32)

    def _grow(self, pages: int) -> bool:
        """Map the lowest segments that are not, as many as `pages` more pages need, or none."""
        missing = -(-pages // self.pages_per_segment)
        numbers = np.flatnonzero(~self._mapped)[:missing].tolist()
        if len(numbers) < missing:
            return False
        done: list[int] = []
        self._growing = True
        try:
            for number in numbers:
                self._map(number)
                done.append(number)
        except NoRoomError:
            for number in done:
                self._unmap(number)
            return False
        finally:
            self._growing = False
        return True

    def _map(self, number: int) -> None:
        """Map one segment in every layer, or none.

        Raises:
            NoRoomError: There is no memory.
        """
        handles = self._segments.take(len(self._ranges))
        mapped: list[Handle] = []
        try:
            for layer, handle in zip(self._ranges, handles, strict=True):
                layer.map_segment(number, handle)
                mapped.append(handle)
        except BaseException:
            for layer in self._ranges[: len(mapped)]:
                layer.unmap_segment(number)
            self._segments.give(handles, None)
            raise
        first = number * self.pages_per_segment
        self._free[first : first + self.pages_per_segment] = True
        self._free_in[number] = self.pages_per_segment
        self._free_pages += self.pages_per_segment
        self._mapped[number] = True
        self._empty[number] = (self._segments.clock(), None)

    def _unmap(self, number: int) -> None:
        """Take one empty segment away in every layer."""
        since, fence = self._empty.pop(number)
        self._segments.give([layer.unmap_segment(number) for layer in self._ranges], fence, since)
        first = number * self.pages_per_segment
        self._free[first : first + self.pages_per_segment] = False
        self._free_in[number] = 0
        self._free_pages -= self.pages_per_segment
        self._mapped[number] = False
