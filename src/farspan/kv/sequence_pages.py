"""The pages of one sequence in one kind of layers: which page holds which positions, and where runs are contiguous."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Extent(NamedTuple):
    """Consecutive positions in consecutive slots."""

    position: int
    slot: int
    tokens: int


class PageTable:
    """Pages of consecutive positions; dropped from the front, added at the back.

    Args:
        page_tokens: Positions a page.
        first_page: Number of the first page held: it covers positions from `first_page * page_tokens` on.

    Attributes:
        replacements: How often pages that were there already have been replaced: a copy of the ids made before the
            last of them is out of date, while one that was made before an append only lacks its end.
    """

    def __init__(self, page_tokens: int, first_page: int = 0) -> None:
        self.replacements = 0
        self._page_tokens = page_tokens
        self._first = first_page
        self._pages = np.empty(16, np.int32)
        self._dropped = 0  # entries at the front of the array that are gone
        self._stop = 0
        self._extents: list[Extent] = []

    def __len__(self) -> int:
        """Pages held."""
        return self._stop - self._dropped

    @property
    def first_page(self) -> int:
        """Number of the first page held."""
        return self._first

    @property
    def stop_page(self) -> int:
        """Number of the page that the next `append` adds."""
        return self._first + len(self)

    @property
    def last(self) -> int | None:
        """Id of the last page."""
        return int(self._pages[self._stop - 1]) if len(self) else None

    def pages(self, start: int, stop: int) -> NDArray[np.int32]:
        """Return the ids of pages number [start, stop), which must be held; a view."""
        assert self._first <= start <= stop <= self.stop_page, "these pages are not held"
        shift = self._dropped - self._first
        return self._pages[start + shift : stop + shift]

    def held(self) -> NDArray[np.int32]:
        """Return the ids of all pages held; a view."""
        return self._pages[self._dropped : self._stop]

    def append(self, pages: NDArray[np.int32]) -> None:
        """Add pages at the back."""
        needed = self._stop + len(pages)
        if needed > len(self._pages):
            grown = np.empty(max(needed, 2 * len(self._pages) - self._dropped), np.int32)
            grown[: len(self)] = self.held()
            self._pages, self._stop, self._dropped = grown, len(self), 0
        self._pages[self._stop : self._stop + len(pages)] = pages
        position = self.stop_page * self._page_tokens
        self._stop += len(pages)
        for extent in self._contiguous(pages, position):
            self._join(extent)

    def drop_before(self, position: int) -> NDArray[np.int32]:
        """Let go of the pages that lie wholly before `position` and return their ids."""
        count = min(max(0, position // self._page_tokens - self._first), len(self))
        gone = self._pages[self._dropped : self._dropped + count].copy()
        self._dropped += count
        self._first += count
        first = self._first * self._page_tokens
        while self._extents and self._extents[0].position < first:
            extent = self._extents.pop(0)
            left = extent.position + extent.tokens - first
            if left > 0:
                self._extents.insert(0, Extent(first, extent.slot + extent.tokens - left, left))
        return gone

    def replace(self, start: int, pages: NDArray[np.int32]) -> NDArray[np.int32]:
        """Put other pages in the place of those from number `start` on; return the ids that were there."""
        stop = start + len(pages)
        view = self.pages(start, stop)
        former = view.copy()
        view[:] = pages
        self.replacements += 1
        self._extents = []
        for extent in self._contiguous(self.held(), self._first * self._page_tokens):
            self._join(extent)
        return former

    def extents(self, start: int, stop: int) -> list[Extent]:
        """Return where positions [start, stop), which must be held, lie, in order."""
        if start >= stop:
            return []
        first, last = self._first * self._page_tokens, self.stop_page * self._page_tokens
        assert first <= start, f"positions [{start}, {stop}) are not held"
        assert stop <= last, f"positions [{start}, {stop}) are not held"
        index = bisect_right(self._extents, start, key=lambda extent: extent.position) - 1
        found = []
        for position, slot, count in self._extents[index:]:
            if position >= stop:
                break
            low, high = max(start, position), min(stop, position + count)
            found.append(Extent(low, slot + low - position, high - low))
        return found

    def check_integrity(self) -> None:
        """Raise AssertionError when the extents do not say what the page ids say."""
        expected: list[int] = []
        for page in self.held().tolist():
            expected.extend(range(page * self._page_tokens, (page + 1) * self._page_tokens))
        slots = [slot for _, first, count in self._extents for slot in range(first, first + count)]
        assert slots == expected, "extents and pages differ"

    def _contiguous(self, pages: NDArray[np.int32], position: int) -> list[Extent]:
        if not len(pages):
            return []
        size = self._page_tokens
        breaks = np.flatnonzero(np.diff(pages) != 1) + 1
        starts = np.concatenate(([0], breaks))
        counts = np.diff(np.concatenate((starts, [len(pages)])))
        slots = pages[starts].astype(np.int64) * size
        return [
            Extent(position + start * size, slot, count * size)
            for start, slot, count in zip(starts.tolist(), slots.tolist(), counts.tolist(), strict=True)
        ]

    def _join(self, extent: Extent) -> None:
        if self._extents:
            last = self._extents[-1]
            if last.slot + last.tokens == extent.slot:
                self._extents[-1] = Extent(last.position, last.slot, last.tokens + extent.tokens)
                return
        self._extents.append(extent)
