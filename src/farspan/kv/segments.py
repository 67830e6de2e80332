"""Segments: physical memory of one size that moves between ranges of addresses, under one budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farspan.kv.drivers.driver import Driver, Fence, Handle, Memory, NoRoomError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Cap:
    """The most physical memory a pool may hold.

    Attributes:
        fixed_bytes: That many bytes; None for a share of the device.
        share: The share of what is free on the device and what the pool already holds.
    """

    fixed_bytes: int | None = None
    share: float = 1.0

    def bytes(self, memory: Memory, held: int) -> int:
        """Return the cap as things stand: a neighbour that takes memory lowers a share's."""
        return self.fixed_bytes if self.fixed_bytes is not None else int(self.share * (memory.free + held))


@dataclass(frozen=True, slots=True)
class SegmentStatistics:
    """What a pool of segments holds and has done.

    Attributes:
        created: Segments that exist now.
        idle: Those of them that are behind no address.
        mapped_ever: Segments taken so far.
        unmapped_ever: Segments given back to the device so far.
    """

    created: int
    idle: int
    mapped_ever: int
    unmapped_ever: int


@dataclass(frozen=True, slots=True)
class _Idle:
    handle: Handle
    since: float
    fence: Fence | None  # None when nothing ever used it


class SegmentPool:
    """All segments of one device.

    A segment that is given back stays for the next growth, of whichever range, and goes back to the device after the
    quiet time. `ahead` segments are created in the background whenever growth has used some up, so that growing is
    mapping alone.

    Args:
        driver: Where memory comes from.
        segment_bytes: Of every segment, a multiple of the driver's granularity.
        cap: The most all of them may take.
        quiet_s: How long an idle segment stays, in seconds.
        ahead: Segments kept ready while memory grows.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        driver: Driver,
        segment_bytes: int,
        cap: Cap,
        *,
        quiet_s: float = 5.0,
        ahead: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert segment_bytes > 0 and segment_bytes % driver.granularity == 0, "segments are whole driver units"
        self.driver = driver
        self.segment_bytes = segment_bytes
        self.quiet_s = quiet_s
        self.clock = clock
        self._cap = cap
        self._ahead = ahead
        self._lock = threading.RLock()
        self._idle: list[_Idle] = []
        self._created = 0
        self._mapped_ever = 0
        self._unmapped_ever = 0
        self._reclaimers: list[Callable[[], int]] = []
        self._wanted = threading.Event()
        self._closed = False
        self._worker: threading.Thread | None = None
        if ahead:
            self._worker = threading.Thread(target=self._create_ahead, name="farspan-segments", daemon=True)
            self._worker.start()

    def capacity_bytes(self) -> int:
        """Return the most the pool may hold as things stand."""
        with self._lock:
            return self._cap.bytes(self.driver.memory(), self._created * self.segment_bytes)

    def room(self) -> int:
        """Return how many segments `take` could give now, without reclaiming any."""
        with self._lock:
            return len(self._idle) + self._creatable()

    def take(self, count: int) -> list[Handle]:
        """Return segments: idle ones first, then new ones, then those that ranges hold without using them.

        Raises:
            NoRoomError: There are not that many; nothing is taken.
        """
        with self._lock:
            taken = self._take(count)
            if len(taken) < count and sum(reclaim() for reclaim in self._reclaimers):
                taken += self._take(count - len(taken))
            if len(taken) < count:
                now = self.clock()
                self._idle += [_Idle(handle, now, None) for handle in taken]
                raise NoRoomError(
                    f"{count} segments of {self.segment_bytes} bytes are not to be had",
                    "lower the load, or leave the cache more memory",
                )
            self._mapped_ever += count
        if self._ahead:
            self._wanted.set()
        return taken

    def give(self, handles: list[Handle], fence: Fence | None, since: float | None = None) -> None:
        """Give segments back, no longer mapped.

        Args:
            handles: The segments.
            fence: Marks the last work that used them; None when none did.
            since: Since when nobody needs them, by the pool's clock; None for now.
        """
        with self._lock:
            since = self.clock() if since is None else since
            self._idle += [_Idle(handle, since, fence) for handle in handles]

    def tick(self) -> None:
        """Give idle segments back to the device when their quiet time is over, or the cap has fallen below them."""
        with self._lock:
            now, surplus = self.clock(), -self._headroom()
            kept: list[_Idle] = []
            for idle in self._idle:
                due = now - idle.since >= self.quiet_s or surplus > 0
                if due and (idle.fence is None or idle.fence.done()):
                    self._destroy(idle.handle)
                    surplus -= 1
                else:
                    kept.append(idle)
            self._idle = kept

    def add_reclaimer(self, reclaim: Callable[[], int]) -> None:
        """Ask `reclaim` for segments when there is no other room; it gives back what it can and returns how many."""
        self._reclaimers.append(reclaim)

    def statistics(self) -> SegmentStatistics:
        """Return what the pool holds and has done."""
        with self._lock:
            return SegmentStatistics(self._created, len(self._idle), self._mapped_ever, self._unmapped_ever)

    def close(self) -> None:
        """Give idle segments back and stop creating; ranges have given theirs back before."""
        self._closed = True
        self._wanted.set()
        if self._worker is not None:
            self._worker.join()
        with self._lock:
            for idle in self._idle:
                if idle.fence is not None:
                    idle.fence.wait()
                self._destroy(idle.handle)
            self._idle = []
            assert self._created == 0, "segments are still mapped"

    def _take(self, count: int) -> list[Handle]:
        """Take up to `count`: the youngest idle ones first, so that the others come of age."""
        taken = [self._idle.pop().handle for _ in range(min(count, len(self._idle)))]
        try:
            while len(taken) < count and self._creatable() > 0:
                taken.append(self.driver.create(self.segment_bytes))
                self._created += 1
        except NoRoomError:
            pass  # the device had less than it said: a neighbour was faster
        return taken

    def _creatable(self) -> int:
        return max(0, self._headroom())

    def _headroom(self) -> int:
        """Segments that may still be created; below zero when the cap has fallen below what there is."""
        memory = self.driver.memory()
        held = self._created * self.segment_bytes
        below_cap = (self._cap.bytes(memory, held) - held) // self.segment_bytes
        return min(below_cap, memory.free // self.segment_bytes)

    def _destroy(self, handle: Handle) -> None:
        self.driver.destroy(handle)
        self._created -= 1
        self._unmapped_ever += 1

    def _create_ahead(self) -> None:
        while self._wanted.wait() and not self._closed:
            self._wanted.clear()
            while not self._closed:
                with self._lock:
                    if len(self._idle) >= self._ahead or self._creatable() <= 0:
                        break
                    self._created += 1
                try:
                    # Outside the lock: this is the slow part, and what taking must not wait for.
                    handle = self.driver.create(self.segment_bytes)
                except NoRoomError:
                    with self._lock:
                        self._created -= 1
                    break
                with self._lock:
                    self._idle.insert(0, _Idle(handle, self.clock(), None))


class SegmentedRange:
    """Addresses for many segments, with memory behind those that are mapped.

    Args:
        driver: Where memory comes from.
        segment_bytes: Of each segment.
        count: How many segments there are addresses for.
    """

    def __init__(self, driver: Driver, segment_bytes: int, count: int) -> None:
        self._driver = driver
        self._segment_bytes = segment_bytes
        self._size = segment_bytes * count
        self.address = driver.reserve(self._size)
        self._mapped: dict[int, Handle] = {}

    @property
    def mapped(self) -> frozenset[int]:
        """Numbers of the segments with memory behind them."""
        return frozenset(self._mapped)

    def map_segment(self, number: int, handle: Handle) -> None:
        """Put a segment behind its addresses.

        Raises:
            NoRoomError: The device has no memory for its own tables.
        """
        assert number not in self._mapped, "this segment is mapped already"
        assert 0 <= number < self._size // self._segment_bytes, "there are no addresses for this segment"
        self._driver.map(self.address + number * self._segment_bytes, handle)
        self._mapped[number] = handle

    def unmap_segment(self, number: int) -> Handle:
        """Take a segment away and return it; nothing on the device may still use it."""
        self._driver.unmap(self.address + number * self._segment_bytes, self._segment_bytes)
        return self._mapped.pop(number)

    def tensor(self) -> torch.Tensor:
        """Return the whole range as uint8; segment 0 must be mapped, and only mapped parts may be touched."""
        assert 0 in self._mapped, "the first segment is mapped first"
        return self._driver.tensor(self.address, self._size)

    def close(self) -> list[Handle]:
        """Give the addresses back and return the segments that were mapped."""
        handles = [self.unmap_segment(number) for number in sorted(self._mapped)]
        self._driver.release(self.address, self._size)
        return handles
