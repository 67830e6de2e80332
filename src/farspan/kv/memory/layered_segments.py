"""The memory of a page pool: a segment of the pool is the segments of every layer that hold its pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farspan.kv.memory.backing import Backing, SegmentSpan
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.page_refs import PageReferences, Pages
from farspan.kv.memory.segments import SegmentPool


class LayeredSegments:
    """Backs segments of a page pool in all layers, or in none.

    Args:
        segments: Where the memory comes from.
        page_bytes: Bytes of a page, a layer each.
        page_refs: The pages, which exist while their segment is backed.

    Attributes:
        page_bytes: See above.
        backing: Of the layers' ranges.
        even: Whether a segment of the pool is just one segment of every layer.
        prepare: Called with pages [low, high) when new memory is mapped there, before anybody gets them.
        cover: Called with the page after the last that is to get memory; when it raises NoRoomError none gets any.
        maps_late: Segments that are backed from now on have memory, and are mapped when `map` is told of their pages.
    """

    def __init__(self, segments: SegmentPool, page_bytes: Sequence[int], page_refs: PageReferences) -> None:
        self._segment_bytes = segments.segment_bytes
        self.page_bytes = page_bytes
        self._page_refs = page_refs
        self.backing = Backing(segments, [page * page_refs.max_pages for page in page_bytes])
        self.even = all(page * page_refs.segment_pages == segments.segment_bytes for page in page_bytes)
        self.prepare: Callable[[int, int], None] | None = None
        self.cover: Callable[[int], None] | None = None
        self.maps_late = False
        self._unmapped = np.zeros(page_refs.segments, np.bool_)  # backed, and not mapped yet

    def spans(self, segment: int, stop: int | None = None) -> list[SegmentSpan]:
        """Return the physical segments, of every layer, that hold the pages of a segment, or of [segment, stop).

        Where rows do not divide a segment evenly, neighbours share one and both hold it: then ask one by one.
        """
        size = self._segment_bytes
        low, high = self._page_refs.bounds(segment, stop)
        return [
            SegmentSpan(layer, low * page // size, -(-high * page // size))
            for layer, page in enumerate(self.page_bytes)
        ]

    def back(self, segments: NDArray[np.int64]) -> None:
        """Back whole segments of the pool, ascending, in every layer; all or none.

        Raises:
            NoRoomError: There is no memory for them.
        """
        runs = _runs(segments)
        if self.cover is not None:
            self.cover(self._page_refs.bounds(*runs[-1])[1])
        if self.even:
            spans = [span for run in runs for span in self.spans(*run)]
        else:
            spans = [span for segment in segments.tolist() for span in self.spans(segment)]
        self.backing.hold(spans, late=self.maps_late)
        for start, stop in runs:
            self._page_refs.back(start, stop)
            if self.maps_late:
                self._unmapped[start:stop] = True
            else:
                self._prepare(start, stop)

    def unback(self, segments: Sequence[int]) -> None:
        """Let go of segments whose pages are all free."""
        self.backing.release([span for segment in segments for span in self.spans(segment)])
        for segment in segments:
            self._page_refs.unback(segment)
            self._unmapped[segment] = False

    def map(self, pages: Pages) -> bool:
        """Map what `pages` are in and was not mapped; return False, with less of it left, when the device could not."""
        if not self.maps_late:
            return True
        segments = np.unique(pages // self._page_refs.segment_pages)
        segments = segments[self._unmapped[segments]]
        if not len(segments):
            return True
        for start, stop in _runs(segments):
            try:
                fresh = self.backing.map_late(self.spans(start, stop))
            except NoRoomError:
                return False
            self._unmapped[start:stop] = False
            if fresh:  # what was mapped all the time holds what was written there last
                self._prepare(start, stop)
        return True

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        self.backing.check_integrity()
        for segment in range(self._page_refs.segments):
            if not self._page_refs.is_backed(segment):
                assert not self._unmapped[segment], "what has no memory is not to be mapped"
            elif not self._unmapped[segment]:
                assert self.backing.is_mapped(self.spans(segment)), "pages have memory"

    def _prepare(self, start: int, stop: int) -> None:
        if self.prepare is not None:
            self.prepare(*self._page_refs.bounds(start, stop))


def _runs(segments: NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """Return ascending numbers, at least one, as runs [start, stop) of neighbours."""
    ends = np.flatnonzero(np.diff(segments) != 1)
    starts, stops = segments[np.concatenate(([0], ends + 1))], segments[np.concatenate((ends, [-1]))] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))
