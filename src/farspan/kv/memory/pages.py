"""Pages of the KV cache: the unit of allocation and sharing, in elastic memory.

A pool serves the layers of one kind. Every layer has a range of its own, and a page is the same consecutive slots in
each of them, so a page id is an address in every layer and never moves. A segment of the pool is a run of pages: it is
backed in all layers or in none, grows when there is no free page below, and goes when all of its pages are free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from farspan.errors import FarspanError, InputError
from farspan.kv.memory.backing import MOST_UNMAPPED
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.layered_segments import LayeredSegments
from farspan.kv.memory.page_refs import PageReferences, Pages
from farspan.kv.memory.segments import SegmentPool
from farspan.kv.sizing import fit_segment

if TYPE_CHECKING:
    import torch


class PagePool:
    """Pages of one kind of layers. Not safe to share between threads.

    Its first segment is backed as long as it lives; that is what it costs when it is idle.

    Args:
        segments: Where the memory comes from.
        row_bytes: Bytes of one token slot, a layer each.
        page_tokens: Token slots of a page.
        max_pages: Pages there can ever be; address space is reserved for all of them.

    Raises:
        NoRoomError: There is no memory for the first segment.
    """

    def __init__(
        self, segments: SegmentPool, row_bytes: Sequence[int], page_tokens: int, max_pages: int
    ) -> None:
        if not row_bytes or min(row_bytes) <= 0 or page_tokens <= 0 or not 0 < max_pages < 2**31:
            raise InputError("a page pool needs layers, and a row, a page and a cap of at least 1")
        self._pool = segments
        self.row_bytes = tuple(row_bytes)
        self.page_tokens = page_tokens
        page_bytes = [row * page_tokens for row in row_bytes]
        most = max(1, segments.segment_bytes // max(page_bytes))
        self._page_refs = PageReferences(max_pages, *fit_segment(min(most, max_pages)))
        self._memory = LayeredSegments(segments, page_bytes, self._page_refs)
        self._backing = self._memory.backing
        self._may_shrink = self._counted_on = False
        self._kept = 0
        self._agree: Callable[[int], int] | None = None
        self._poison: Callable[[Pages], None] | None = None
        try:
            self._memory.back(np.zeros(1, np.int64))
        except FarspanError:
            self._backing.close()
            raise
        segments.register(self)

    # --- how many ------------------------------------------------------------------------------------------------

    @property
    def max_pages(self) -> int:
        """Pages there can ever be."""
        return self._page_refs.max_pages

    @property
    def pages_per_segment(self) -> int:
        """Pages that are backed together; segment s holds pages [s * this, (s + 1) * this)."""
        return self._page_refs.segment_pages

    @property
    def mapped_pages(self) -> int:
        """Pages that have memory now."""
        return self._page_refs.backed_pages

    @property
    def backed_stop(self) -> int:
        """The page after the last that has memory."""
        return self._page_refs.bounds(self._page_refs.last_backed())[1]

    @property
    def used(self) -> int:
        """Pages with a reference."""
        return self._page_refs.backed_pages - self._page_refs.free_pages

    @property
    def free_pages(self) -> int:
        """Pages that have memory and no reference: `alloc` gives so many without asking the device."""
        return self._page_refs.free_pages

    @property
    def segment_layer_bytes(self) -> int:
        """Physical bytes of a segment of this pool, all layers together."""
        return sum(page * self.pages_per_segment for page in self._memory.page_bytes)

    @property
    def mapped_bytes(self) -> int:
        """Physical bytes mapped for this pool now."""
        return self._backing.mapped_bytes

    def available(self) -> int:
        """Return the pages that `alloc` could give now, growth included."""
        room, unbacked = self._pool.room(), self._page_refs.unbacked()
        if self._memory.even and not self._backing.has_empty:  # the usual case, in no time: all cost the same
            count = min(room // len(self.row_bytes), len(unbacked))
        else:
            count = self._backing.affordable(
                (self._memory.spans(segment) for segment in unbacked.tolist()), room
            )
        return self._page_refs.free_pages + int(self._page_refs.pages_of(unbacked[:count]).sum())

    # --- allocation ----------------------------------------------------------------------------------------------

    def alloc(self, n: int, after: int | None = None) -> Pages | None:
        """Return `n` page ids with one reference each, or None when there is no room (nothing has changed).

        Those that directly follow page `after` come first, as far as they are free; the others ascend from the lowest
        free page. The pool grows by whole segments when it must. The array may be read-only.

        After `map_late` there is also None when the device could not map what has memory. It may a moment later;
        then there are as many `free_pages` as were asked for.

        Raises:
            DriverError: The device refused for another reason than memory; nothing has changed.
        """
        if n <= 0:
            return np.empty(0, np.int32)
        missing = n - self._page_refs.free_pages
        if missing > 0:
            growth = self._growth(missing)
            if self._page_refs.pages_of(growth).sum() < missing or not self._grow(growth, partly=False):
                return None
        pages = self._page_refs.take(n, after)
        if not self._memory.map(pages):
            self._page_refs.free(pages)
            return None
        if self._poison is not None:
            self._poison(pages)
        return pages

    def grow_ahead(self, unused: int) -> bool:
        """Back and map a segment more where fewer pages than one has are free; return whether they have memory now.

        Whoever needs it next does not wait for it. What is not used goes by `tick`, like all that is empty. What the
        device cannot map now is mapped when it is handed out.

        Args:
            unused: Segments of memory nobody has; with fewer than it takes, nothing is done.
        """
        segment = self._growth(1)
        if self._page_refs.free_pages >= self.pages_per_segment or not len(segment):
            return True
        cost = sum(span.stop - span.start for span in self._memory.spans(int(segment[0])))
        if cost > unused or not self._grow(segment, partly=False):
            return False
        self._memory.map(np.array(self._page_refs.bounds(int(segment[0]))[:1], np.int32))
        return True

    def secure(self, n: int) -> int:
        """Back pages until `n` are free, as far as there is room, and keep so many free ones until told otherwise.

        What is kept is not given up for another pool and not by `tick`: `alloc` of as much cannot fail.

        Returns:
            The pages that are free and have memory now; perhaps more than `n`, perhaps less.
        """
        self.keep(n)
        if (missing := n - self._page_refs.free_pages) > 0:
            self._grow(self._growth(missing), partly=True)
        return self._page_refs.free_pages

    def keep(self, n: int) -> None:
        """Keep `n` free pages, or as many as there are, from now on; see `secure`."""
        self._may_shrink = self._may_shrink or n < self._kept
        self._kept = n

    def free_all(self) -> None:
        """Free every page, however often it is referred to."""
        while len(pages := self._page_refs.in_use()):
            self.free(pages)

    def prepare_with(self, prepare: Callable[[int, int], None]) -> None:
        """Have `prepare` called with pages [low, high) when new memory is mapped there, before anybody gets them."""
        self._memory.prepare = prepare

    def map_late(self) -> None:
        """From now on map memory when pages of it are handed out, and not when they are backed.

        Who secures pages long before they are needed then waits for their memory, and not for it to be mapped, which
        takes several times as long and can be done while the device works.
        """
        self._memory.maps_late = True

    def cover_with(self, cover: Callable[[int], None]) -> None:
        """Have `cover` called with the page after the last that is to get memory.

        When it raises NoRoomError none gets any.
        """
        self._memory.cover = cover

    def agree_with(self, agree: Callable[[int], int]) -> None:
        """Stay the same as pools of other processes that are called alike.

        It grows by as many segments as `agree` makes of its own, the least of all, and shrinks in `release_empty` only.
        """
        self._agree = agree

    def in_use(self) -> Pages:
        """Return every page with a reference, ascending."""
        return self._page_refs.in_use()

    def share(self, pages: Pages) -> None:
        """Count one more reference of every page.

        Raises:
            DriverError: A page is not in use; nothing has changed.
        """
        self._page_refs.share(np.asarray(pages))

    def free(self, pages: Pages) -> int:
        """Count one reference less of every page; those without any are free. Return how many these are.

        Raises:
            DriverError: A page is freed more often than it is in use; nothing has changed.
        """
        freed = self._page_refs.free(np.asarray(pages))
        if freed and self._poison is not None:
            distinct = np.unique(pages)
            self._poison(distinct[self._page_refs.references(distinct) == 0])
        self._may_shrink = self._may_shrink or freed > 0
        return freed

    def references(self, pages: Pages) -> NDArray[np.int32]:
        """Return the references of every page; 0 for a free one."""
        return self._page_refs.references(np.asarray(pages))

    def writable(self, page: int) -> bool:
        """Return whether the page has exactly one reference, so that its owner may write to it."""
        return int(self._page_refs.references(np.array([page], np.int32))[0]) == 1

    def own(self, page: int) -> int | None:
        """Return a page with this one's contents that its holder alone refers to; None when there is no room.

        That is the page itself when nobody shares it. Otherwise it is copied in every layer, and the holder's reference
        moves to the copy: copy on write.
        """
        if self.writable(page):
            return page
        copy = self.alloc(1)
        if copy is None:
            return None
        target = int(copy[0])
        for number in range(len(self.row_bytes)):
            by_page = self.layer(number).view(self.max_pages, -1)
            by_page[target].copy_(by_page[page])
        self.free(np.array([page], np.int32))
        return target

    def poison_with(self, poison: Callable[[Pages], None]) -> None:
        """Have every page poisoned when it is let go and when it is handed out, see `PageGuard`."""
        self._poison = poison

    # --- shrinking -----------------------------------------------------------------------------------------------

    def occupancy(self) -> NDArray[np.int32]:
        """Return the used pages of every segment; 0 where it is not backed."""
        return self._page_refs.occupancy()

    def pressure(self, pages: Pages) -> NDArray[np.float64]:
        """Return, for each page, 0 to 1: how much freeing it would help to empty its segment.

        1 is the only used page of a segment; 0 is a page of a full one, or of the first, which always stays.
        """
        used = self.occupancy().astype(np.float64)
        size = self._page_refs.pages_of(np.arange(len(used)))
        help_a_segment = np.clip((size - used) / np.maximum(size - 1, 1), 0.0, 1.0)
        help_a_segment[size == 1] = 1.0
        help_a_segment[0] = 0.0
        return help_a_segment[np.asarray(pages) // self._page_refs.segment_pages]

    def tick(self, most: int = MOST_UNMAPPED) -> None:
        """Let go of segments that have been empty for the quiet time; call it between steps, then the pool's `tick`.

        Args:
            most: Segments of all layers to unmap at once.
        """
        if self._agree is None:
            self.release_empty()
        self._backing.tick(most)

    def surrenderable(self) -> int:
        """See `Lender.surrenderable`. Segments just emptied count, as soon as what was queued before has ended."""
        if self._agree is None:
            self.release_empty()
        return self._backing.surrenderable()

    def surrender(self, count: int) -> int:
        """See `Lender.surrender`."""
        if self._agree is None and not self._counted_on:
            self.release_empty()
        return self._backing.surrender(count)

    def release_empty(self) -> None:
        """Take segments without a used page out of use; their memory stays mapped for the quiet time."""
        if not self._may_shrink:
            return
        spare = self._page_refs.free_pages - self._kept
        empty = []
        for segment in np.flatnonzero(self.occupancy() == 0)[::-1].tolist():  # the highest go first
            if segment and self._page_refs.is_backed(segment):
                low, high = self._page_refs.bounds(segment)
                if high - low <= spare:
                    empty.append(segment)
                    spare -= high - low
        self._memory.unback(empty)
        self._may_shrink = False

    # --- the memory ----------------------------------------------------------------------------------------------

    def layer(self, number: int) -> torch.Tensor:
        """Return uint8 [max_pages * page_tokens, row_bytes] over the layer's range; touch only pages in use."""
        import torch

        rows = self.max_pages * self.page_tokens
        return self._backing.ranges[number].tensor(torch.uint8, (rows, self.row_bytes[number]))

    def layer_numpy(self, number: int) -> NDArray[np.uint8]:
        """Return the same as `layer` for numpy, where the processor can touch the memory."""
        rows = self.max_pages * self.page_tokens
        return self._backing.ranges[number].numpy(np.uint8, (rows, self.row_bytes[number]))

    # --- upkeep --------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        self._page_refs.check_integrity()
        self._memory.check_integrity()
        assert self._page_refs.is_backed(0), "the first segment stays"

    def close(self) -> None:
        """Give all memory back; views must not be used afterwards. Closing twice does nothing."""
        if self._backing.ranges:
            self._pool.unregister(self)
            self._backing.close()

    # --- inside --------------------------------------------------------------------------------------------------

    def _growth(self, missing: int) -> NDArray[np.int64]:
        """Return the lowest segments without memory that hold `missing` pages, or all of them."""
        # Only the very last segment may have fewer pages than the others, and it comes last here too.
        return self._page_refs.unbacked()[: -(-missing // self.pages_per_segment)]

    def _try_back(self, segments: NDArray[np.int64]) -> bool:
        """Back segments, at least one, if there is room; return whether there was."""
        # What is empty here is counted on: it is not given up to make room for the rest.
        self._counted_on = True
        try:
            self._memory.back(segments)
        except NoRoomError:
            return False
        finally:
            self._counted_on = False
        return True

    def _grow(self, segments: NDArray[np.int64], partly: bool) -> bool:
        """Back `segments`, or with `partly` as many of the first as there is room for; return whether it was all."""
        if not len(segments):
            return True
        count = len(segments) if self._try_back(segments) else 0
        if partly and not count:
            groups = (self._memory.spans(segment) for segment in segments.tolist())
            step = most = self._backing.affordable(groups, self._pool.room())
            while step:  # smaller ones where somebody took it meanwhile
                got = self._try_back(segments[count : count + step])
                count += step if got else 0
                step = min(step, most - count) if got else step // 2
        least = count if self._agree is None else self._agree(count)
        agreed = least if partly or least == len(segments) else 0
        if agreed < count:
            self._memory.unback(segments[agreed:count].tolist())
        return agreed == len(segments)
