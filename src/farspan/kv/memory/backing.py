"""Which segments of some ranges are in use, and by how many: mapped when first needed, unmapped after a quiet time.

Users come and go far more often than memory should, so a segment without users stays mapped for a while: a user who
comes back pays nothing, another pool that needs the memory gets it, and otherwise it goes back to the device.

To map is what takes longest: 30 us a segment of an H200, where its memory takes 9. So memory can be held first, and
mapped a part at a time, while the device works on what was mapped before (`hold` with `late`, `map_late`).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from farspan.errors import FarspanError
from farspan.kv.memory.drivers.driver import Fence, Handle, PassedFence
from farspan.kv.memory.ranges import SegmentedRange
from farspan.kv.memory.segments import UNMAP_AFTER, SegmentPool


class SegmentSpan(NamedTuple):
    """Segments [start, stop) of range number `range`."""

    range: int
    start: int
    stop: int


class _Empty(NamedTuple):
    since: float
    fence: Fence


# Segments unmapped by one `tick`: 4 GiB of the smallest, some 60 ms, so that whoever comes next does not wait for all.
MOST_UNMAPPED = 2048


class Backing:
    """The backed parts of several ranges of one `SegmentPool`; a `Lender` of what is empty.

    Args:
        pool: Where segments come from.
        sizes: Bytes of address space of each range.
        new_range: Makes a range of so many bytes.
    """

    def __init__(
        self,
        pool: SegmentPool,
        sizes: Sequence[int],
        new_range: Callable[[SegmentPool, int], SegmentedRange] = SegmentedRange,
    ) -> None:
        self._pool = pool
        self.ranges: list[SegmentedRange] = []
        self._empty: dict[tuple[int, int], _Empty] = {}  # mapped and without users, the longest first
        self._late: dict[tuple[int, int], Handle] = {}  # held, with memory, not mapped yet
        self._fences: Counter[Fence] = Counter()  # of the empty ones -> how many stand behind it
        try:
            for size in sizes:
                self.ranges.append(new_range(pool, size))
        except FarspanError:
            self.close()
            raise
        self._users = [np.zeros(one.segments, np.int32) for one in self.ranges]

    @property
    def has_empty(self) -> bool:
        """Whether something is mapped and has no user."""
        return bool(self._empty)

    @property
    def mapped_bytes(self) -> int:
        """Physical bytes mapped now, in use or not, and those that are held to be mapped late."""
        segments = sum(one.mapped_segments for one in self.ranges) + len(self._late)
        return segments * self._pool.segment_bytes

    def hold(self, spans: Sequence[SegmentSpan], late: bool = False) -> None:
        """Count one more user of every segment of `spans`, mapping those that are not; all or none.

        Args:
            spans: The segments.
            late: Take memory for them, and leave it to `map_late` to map it.

        Raises:
            NoRoomError: There is no memory for them; nothing has changed.
        """
        wanted = {(span.range, index) for span in spans for index in range(span.start, span.stop)}
        # Taken off the list first: what is about to be used must not be surrendered to make room for the rest.
        revived = {key: self._leave(key) for key in wanted & self._empty.keys()}
        missing = sorted(key for key in wanted if not self._has_memory(key))
        try:
            if late:
                self._late.update(zip(missing, self._pool.take(len(missing)), strict=True))
            else:
                self._map(missing)
        except FarspanError:
            self._fences.update(empty.fence for empty in revived.values())
            self._empty = dict(sorted((self._empty | revived).items(), key=lambda item: item[1].since))
            raise
        for span in spans:
            self._users[span.range][span.start : span.stop] += 1

    def is_mapped(self, spans: Sequence[SegmentSpan]) -> bool:
        """Return whether all of `spans` is mapped."""
        return all(
            self.ranges[span.range].mapped(index) for span in spans for index in range(span.start, span.stop)
        )

    def map_late(self, spans: Sequence[SegmentSpan]) -> bool:
        """Map what of `spans` is held and was not mapped; return whether there was any.

        Raises:
            NoRoomError: The device has no memory for its own tables; what is mapped stays so.
        """
        wanted = ((span.range, index) for span in spans for index in range(span.start, span.stop))
        runs = _runs(sorted(key for key in wanted if key in self._late))
        for number, start, stop in runs:
            keys = [(number, index) for index in range(start, stop)]
            handles = [self._late[key] for key in keys]
            try:
                self.ranges[number].map_segments(start, handles)
            finally:
                for key, handle in zip(keys, handles, strict=True):
                    if handle.address is not None:
                        del self._late[key]
        return bool(runs)

    def release(self, spans: Sequence[SegmentSpan]) -> None:
        """Count one user less of every segment of `spans`; those without any are unmapped after the quiet time."""
        fence, now = self._pool.driver.fence(), self._pool.clock()
        unmapped = []
        for span in spans:
            users = self._users[span.range][span.start : span.stop]
            assert users.all(), "a segment is released as often as it was held"
            users -= 1
            for index in np.flatnonzero(users == 0):
                key = (span.range, span.start + int(index))
                if key in self._late:
                    unmapped.append(self._late.pop(key))
                else:
                    self._enter(key, _Empty(now, fence))
        self._pool.give(unmapped)

    def affordable(self, groups: Iterable[Sequence[SegmentSpan]], room: int) -> int:
        """Return how many of `groups`, in order, could be held together with `room` segments of the pool's `room`."""
        counted: set[tuple[int, int]] = set()
        held = 0
        for spans in groups:
            wanted = {
                (span.range, index) for span in spans for index in range(span.start, span.stop)
            } - counted
            for key in wanted:
                empty = self._empty.get(key)
                # What could be surrendered is part of the room already; what waits for its fence is not.
                room -= not self._has_memory(key) or (empty is not None and empty.fence.done())
            if room < 0:
                break
            counted |= wanted
            held += 1
        return held

    def tick(self, most: int = MOST_UNMAPPED) -> None:
        """Unmap what has had no user for half the quiet time and is behind its fence, `most` segments at once."""
        due = self._pool.clock() - UNMAP_AFTER * self._pool.quiet_s
        going: list[tuple[int, int]] = []
        for key, empty in self._empty.items():
            if empty.since > due or len(going) == most:
                break
            if empty.fence.done():
                going.append(key)
        self._unmap(going)

    def surrenderable(self) -> int:
        """See `Lender.surrenderable`."""
        return sum(count for fence, count in self._fences.items() if fence.done())

    def surrender(self, count: int) -> int:
        """See `Lender.surrender`; the highest segments go first."""
        ready = [key for key, empty in self._empty.items() if empty.fence.done()]
        going = heapq.nlargest(count, ready, key=lambda key: key[1])
        self._unmap(going)
        return len(going)

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        for number, (one, users) in enumerate(zip(self.ranges, self._users, strict=True)):
            assert (users >= 0).all(), "no segment has fewer than no users"
            used = set(np.flatnonzero(users).tolist())
            empty = {index for which, index in self._empty if which == number}
            assert not used & empty, "a segment in use is not empty"
            mapped = {index for index in range(one.segments) if one.mapped(index)}
            late = {index for which, index in self._late if which == number}
            assert late <= used, "what is to be mapped late is in use"
            assert not late & mapped, "what is to be mapped late is not mapped"
            assert used | empty == mapped | late, "what has memory is in use or on its way out"
        assert self._fences == Counter(empty.fence for empty in self._empty.values()), "fences are counted"

    def close(self) -> None:
        """Give every segment and the address space back; there are no `ranges` afterwards."""
        for one in self.ranges:
            one.close()
        self._pool.give(list(self._late.values()))
        self.ranges = []
        self._empty, self._late = {}, {}
        self._fences.clear()

    def _has_memory(self, key: tuple[int, int]) -> bool:
        return self.ranges[key[0]].mapped(key[1]) or key in self._late

    def _map(self, missing: list[tuple[int, int]]) -> None:
        handles = self._pool.take(len(missing))
        done = 0
        try:
            for number, start, stop in _runs(missing):
                self.ranges[number].map_segments(start, handles[done : done + stop - start])
                done += stop - start
        except FarspanError:
            self._undo_map(missing)
            self._pool.give([handle for handle in handles if handle.address is None])
            raise

    def _undo_map(self, keys: list[tuple[int, int]]) -> None:
        """Unmap what is mapped of `keys`; what the device will not unmap is empty, and tried again by `tick`."""
        for number, index in keys:
            if self.ranges[number].mapped(index):
                try:
                    self.ranges[number].unmap_segment(index)
                except FarspanError:
                    self._enter((number, index), _Empty(self._pool.clock(), PassedFence()))

    def _unmap(self, keys: Sequence[tuple[int, int]]) -> None:
        """Unmap empty segments and give them to the pool, those of one time together."""
        given: dict[float, list[Handle]] = {}
        try:
            for key in keys:
                handle = self.ranges[key[0]].unmap_segment(key[1])
                given.setdefault(self._leave(key).since, []).append(handle)
        finally:
            for since, handles in given.items():
                self._pool.give(handles, since=since)

    def _enter(self, key: tuple[int, int], empty: _Empty) -> None:
        self._empty[key] = empty
        self._fences[empty.fence] += 1

    def _leave(self, key: tuple[int, int]) -> _Empty:
        empty = self._empty.pop(key)
        self._fences[empty.fence] -= 1
        if not self._fences[empty.fence]:
            del self._fences[empty.fence]
        return empty


def _runs(keys: list[tuple[int, int]]) -> list[SegmentSpan]:
    """Return ascending (range, index) pairs as runs of neighbours."""
    runs: list[SegmentSpan] = []
    for number, index in keys:
        if runs and runs[-1].range == number and runs[-1].stop == index:
            runs[-1] = SegmentSpan(number, runs[-1].start, index + 1)
        else:
            runs.append(SegmentSpan(number, index, index + 1))
    return runs
