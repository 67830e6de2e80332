"""Which pages are free and how often the others are shared: vectorised, for millions of pages.

One number a page: its references, 0 where it is free or has no memory. Which of the two, its segment knows, so that a
segment comes and goes without a look at its pages. Free pages are counted a block of about a thousand pages, so that
finding one scans a block and not the pool; runs of pages, which is what long prompts leave, are handled as slices.
Pages are taken from the lowest numbers up.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from farspan.kv.memory.drivers.driver import DriverError

Pages = NDArray[np.int32]

_MOST_REFERENCES = 65535  # of 16 bits


class PageReferences:
    """References of `max_pages` pages in segments of `segment_pages`, none of them backed at first.

    Args:
        max_pages: Pages there can ever be.
        segment_pages: Pages of a segment, a multiple of `block_pages` (see `kv.sizing.fit_segment`).
        block_pages: Pages counted together.
    """

    def __init__(self, max_pages: int, segment_pages: int, block_pages: int) -> None:
        self.max_pages = max_pages
        self.segment_pages = segment_pages
        self.segments = -(-max_pages // segment_pages)
        self._block = block_pages
        self._blocks_per_segment = segment_pages // block_pages
        blocks = self.segments * self._blocks_per_segment
        # Written to now, unlike np.zeros: the first write to fresh memory is a page fault, which would cost a growth by
        # millions of pages more than all the rest of it.
        self._references = np.full(blocks * block_pages, 0, np.uint16)
        self._references[max_pages:] = 1  # there are no such pages, so they are never free
        self._sizes = np.clip(max_pages - np.arange(blocks, dtype=np.int64) * block_pages, 0, block_pages)
        self._free = np.zeros(blocks, np.int64)  # free pages of every block
        self._backed = np.zeros(self.segments, np.bool_)
        self._cursor = max_pages  # no page below is free
        # Runs are views of this: they cost nothing, and a run that comes back is known by them.
        self._numbers: Pages = np.arange(max_pages, dtype=np.int32)
        self._numbers.setflags(write=False)
        self.free_pages = 0
        self.backed_pages = 0

    # --- segments ------------------------------------------------------------------------------------------------

    def is_backed(self, segment: int) -> bool:
        """Return whether the segment's pages exist."""
        return bool(self._backed[segment])

    def unbacked(self) -> NDArray[np.int64]:
        """Return the segments that are not backed, lowest first."""
        return np.flatnonzero(~self._backed)

    def last_backed(self) -> int:
        """Return the last segment that is backed; there must be one."""
        return int(np.flatnonzero(self._backed)[-1])

    def pages_of(self, segments: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pages of each segment; the very last may have fewer than the others."""
        return np.minimum(self.segment_pages, self.max_pages - segments * self.segment_pages)

    def bounds(self, segment: int, stop: int | None = None) -> tuple[int, int]:
        """Return the pages [low, high) of a segment, or of [segment, stop)."""
        stop = segment + 1 if stop is None else stop
        return segment * self.segment_pages, min(stop * self.segment_pages, self.max_pages)

    def back(self, segment: int, stop: int | None = None) -> None:
        """Add the pages of a segment, or of [segment, stop), all free."""
        stop = segment + 1 if stop is None else stop
        assert not self._backed[segment:stop].any(), "a segment is backed once"
        low, high = self.bounds(segment, stop)
        blocks = slice(segment * self._blocks_per_segment, stop * self._blocks_per_segment)
        self._free[blocks] = self._sizes[blocks]
        self._backed[segment:stop] = True
        self.free_pages += high - low
        self.backed_pages += high - low
        self._cursor = min(self._cursor, low)

    def unback(self, segment: int) -> None:
        """Remove the pages of a segment, all of which are free."""
        blocks, (low, high) = self._blocks_of(segment), self.bounds(segment)
        assert self._backed[segment], "only a backed segment goes"
        assert int(self._free[blocks].sum()) == high - low, "a segment goes when all of it is free"
        self._free[blocks] = 0
        self._backed[segment] = False
        self.free_pages -= high - low
        self.backed_pages -= high - low

    def occupancy(self) -> NDArray[np.int32]:
        """Return the used pages of every segment; 0 where it is not backed."""
        used = np.where(np.repeat(self._backed, self._blocks_per_segment), self._sizes - self._free, 0)
        counted: NDArray[np.int32] = used.reshape(self.segments, -1).sum(axis=1, dtype=np.int32)
        return counted

    # --- taking --------------------------------------------------------------------------------------------------

    def take(self, count: int, after: int | None = None) -> Pages:
        """Return `count` free pages with one reference each; there must be so many.

        First those that directly follow page `after`, as far as they are free, then the lowest, ascending.
        """
        assert count <= self.free_pages, "no more pages are taken than are free"
        if after is None and 0 < count <= self._block:  # the step of a decoding batch: mostly a run
            low = self._first_page()
            if count == 1 or self._run_from(low, count) == count:
                self._cursor = low + count
                return self._take_run(low, low + count)
        pieces: list[Pages] = []
        left = count
        if after is not None and left:
            following = self._run_from(after + 1, left)
            if following:
                pieces.append(self._take_run(after + 1, after + 1 + following))
                left -= following
        while left:
            piece = self._take_lowest(left)
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else _joined(pieces, self._numbers)

    def _run_from(self, page: int, most: int) -> int:
        """Return how many pages from `page` on, `most` at the most, are free without a gap."""
        stop = min(page + most, self.max_pages)
        segment = page // self.segment_pages
        if stop <= page or not self._backed[segment]:
            return 0
        if stop > (segment + 1) * self.segment_pages:
            backed = self._backed[segment : -(-stop // self.segment_pages)]
            if not backed.all():
                stop = (segment + int(backed.argmin())) * self.segment_pages
        taken = self._references[page:stop] != 0
        first = int(taken.argmax())
        return first if taken[first] else len(taken)

    def _take_run(self, low: int, high: int) -> Pages:
        """Take [low, high), all free."""
        self._references[low:high] = 1
        self._count_run(low, high, -1)
        return self._numbers[low:high]

    def _take_lowest(self, most: int) -> Pages:
        """Take at least one and at most `most` pages from the lowest blocks that have any."""
        first = self._first_block()
        wanted = -(-most // self._block)
        free = self._free[first : first + wanted]
        whole = free == self._sizes[first : first + wanted]
        blocks = len(whole) if whole.all() else int(whole.argmin())
        if blocks >= min(wanted, 4):  # wholly free blocks side by side: a slice
            low = first * self._block
            high = min(low + most, (first + blocks) * self._block, self.max_pages)
            self._cursor = high
            return self._take_run(low, high)
        return self._take_scattered(first, most)

    def _take_scattered(self, first: int, most: int) -> Pages:
        """Take the lowest `most` pages, or fewer, of the blocks from `first` on that have any."""
        width = max(64, 2 * -(-most // self._block))
        blocks = first + np.flatnonzero(self._free[first : first + width])
        counts = self._free[blocks]
        total = np.cumsum(counts)
        last = int(np.searchsorted(total, most))  # the block in which `most` is reached
        blocks, counts = blocks[: last + 1], counts[: last + 1]
        references = self._references.reshape(-1, self._block)
        contiguous = len(blocks) == int(blocks[-1]) - int(blocks[0]) + 1
        rows = references[int(blocks[0]) : int(blocks[-1]) + 1] if contiguous else references[blocks]
        place = np.flatnonzero(rows.reshape(-1) == 0)
        place += np.repeat((blocks - np.arange(len(blocks))) * self._block, counts)
        pages = place[:most].astype(np.int32)
        self._references[pages] = 1
        over = max(0, len(place) - most)  # of the last block, not taken
        self._free[blocks] = 0
        self._free[blocks[-1]] = over
        self._cursor = int(pages[-1]) + 1
        self.free_pages -= len(pages)
        return pages

    def _first_page(self) -> int:
        """Return the lowest free page; there must be one."""
        if self._references[self._cursor] or not self._backed[self._cursor // self.segment_pages]:
            low = self._first_block() * self._block
            self._cursor = low + int((self._references[low : low + self._block] == 0).argmax())
        return self._cursor

    def _first_block(self) -> int:
        """Return the lowest block with a free page; there must be one."""
        block, width = self._cursor // self._block, 16
        while True:
            free = self._free[block : block + width] > 0
            found = int(free.argmax())
            if free[found]:
                return block + found
            block += len(free)
            width *= 4

    # --- sharing and freeing -------------------------------------------------------------------------------------

    def share(self, pages: Pages) -> None:
        """Count one more reference of every page; a page named twice gets two.

        Raises:
            DriverError: A page is not in use, or shared by more than 65,535; nothing has changed.
        """
        run = self._as_run(pages)
        if run is not None:
            references = self._references[run[0] : run[1]]
            if len(references):
                self._check_shareable(int(references.min()), int(references.max()) + 1)
                references += np.uint16(1)
            return
        pages, times = _distinct(pages)
        self._check_inside(pages)
        references = self._references[pages]
        grown = references.astype(np.int64) + times
        self._check_shareable(int(references.min()), int(grown.max()))
        self._references[pages] = grown

    def free(self, pages: Pages) -> int:
        """Count one reference less of every page, and free those without any; return how many these are.

        Raises:
            DriverError: A page is named more often than it has references; nothing has changed.
        """
        run = self._as_run(pages)
        if run is not None:
            return self._free_run(*run)
        pages, times = _distinct(pages)
        self._check_inside(pages)
        references = self._references[pages]
        short = references < times
        if short.any():
            self._refuse_free(int(pages[int(short.argmax())]))
        references -= np.asarray(times, np.uint16)
        self._references[pages] = references
        freed = references == 0
        return self._count_freed(pages if freed.all() else pages[freed])

    def _free_run(self, low: int, high: int) -> int:
        references = self._references[low:high]
        if high - low == 1:
            left = int(references[0]) - 1
            if left < 0:
                self._refuse_free(low)
            references[0] = left
            if left:
                return 0
            block = low // self._block
            self._free[block] += 1
            self.free_pages += 1
            self._cursor = min(self._cursor, low)
            return 1
        if not len(references):
            return 0
        if not int(references.min()):
            self._refuse_free(low + int(references.argmin()))
        if int(references.max()) == 1:
            references.fill(0)
            self._count_run(low, high, 1)
            return high - low
        references -= np.uint16(1)
        return self._count_freed(low + np.flatnonzero(references == 0))

    def references(self, pages: Pages) -> NDArray[np.int32]:
        """Return the references of every page; 0 for a free one."""
        self._check_inside(pages)
        return self._references[pages].astype(np.int32)

    def in_use(self) -> Pages:
        """Return every page that has a reference, ascending."""
        return np.flatnonzero(self._references[: self.max_pages]).astype(np.int32)

    # --- inside --------------------------------------------------------------------------------------------------

    def _blocks_of(self, segment: int) -> slice:
        first = segment * self._blocks_per_segment
        return slice(first, first + self._blocks_per_segment)

    def _as_run(self, pages: Pages) -> tuple[int, int] | None:
        """Return [low, high) when `pages` are consecutive, ascending and inside; None when they are not."""
        count = len(pages)
        if not count:
            return 0, 0
        low, high = int(pages[0]), int(pages[-1]) + 1
        if high - low != count or low < 0 or high > self.max_pages:
            return None
        ours = pages.base is self._numbers and pages.strides == self._numbers.strides
        if ours or count == 1 or bool((pages[1:] > pages[:-1]).all()):
            return low, high
        return None

    def _count_run(self, low: int, high: int, sign: int) -> None:
        """Add the pages [low, high), times `sign`, to the free pages of their blocks."""
        first, last = low // self._block, (high - 1) // self._block
        if first == last:
            self._free[first] += sign * (high - low)
        else:
            self._free[first] += sign * ((first + 1) * self._block - low)
            self._free[first + 1 : last] += sign * self._block
            self._free[last] += sign * (high - last * self._block)
        self.free_pages += sign * (high - low)
        if sign > 0:
            self._cursor = min(self._cursor, low)

    def _count_freed(self, pages: NDArray[np.integer]) -> int:
        """Add ascending pages to the free pages of their blocks."""
        if len(pages):
            first, last = int(pages[0]) // self._block, int(pages[-1]) // self._block
            if len(pages) > last - first:
                borders = np.arange(first, last + 2, dtype=pages.dtype) * self._block
                counts = np.diff(np.searchsorted(pages, borders))
            else:  # few and far apart
                counts = np.bincount(pages // self._block - first)
            self._free[first : last + 1] += counts
            self.free_pages += len(pages)
            self._cursor = min(self._cursor, int(pages[0]))
        return len(pages)

    def _check_inside(self, pages: Pages) -> None:
        if len(pages) and not (int(pages.min()) >= 0 and int(pages.max()) < self.max_pages):
            raise DriverError(f"a page outside [0, {self.max_pages})")

    def _check_shareable(self, least: int, most: int) -> None:
        if not least:
            raise DriverError("a free page cannot be shared", "allocate it first")
        if most > _MOST_REFERENCES:
            raise DriverError(f"a page is shared {_MOST_REFERENCES} times already")

    def _refuse_free(self, page: int) -> None:
        raise DriverError(f"page {page} is freed more often than it is in use")

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        backed = np.repeat(self._backed, self.segment_pages)
        free = backed & (self._references == 0)
        assert (free.reshape(-1, self._block).sum(axis=1) == self._free).all(), (
            "free pages are counted by block"
        )
        assert int(self._free.sum()) == self.free_pages, "free pages are counted in all"
        assert not free[: self._cursor].any(), "nothing is free below the cursor"
        assert not self._references[: self.max_pages][~backed[: self.max_pages]].any(), (
            "used pages have memory"
        )
        pages = self.pages_of(np.flatnonzero(self._backed))
        assert int(pages.sum()) == self.backed_pages, "backed pages are counted"


def _distinct(pages: Pages) -> tuple[Pages, NDArray[np.int32] | int]:
    """Return the pages ascending, each once, and how often each was named (1 when all were once)."""
    if not bool((pages[1:] > pages[:-1]).all()):
        pages = np.sort(pages)
        new = np.empty(len(pages), np.bool_)
        new[0] = True
        np.not_equal(pages[1:], pages[:-1], out=new[1:])
        if not new.all():
            first = np.flatnonzero(new)
            return pages[first], np.diff(first, append=len(pages)).astype(np.int32)
    return pages, 1


def _joined(pieces: list[Pages], numbers: Pages) -> Pages:
    """Return the pieces as one array; a view of `numbers` when they follow one another."""
    runs = all(piece.base is numbers for piece in pieces)
    if runs and all(int(left[-1]) + 1 == int(right[0]) for left, right in pairwise(pieces)):
        return numbers[int(pieces[0][0]) : int(pieces[-1][-1]) + 1]
    return np.concatenate(pieces)
