"""Segments: the physical memory of a device in pieces of one size, shared by many address ranges.

`SegmentPool` owns the budget and every piece; a range (`memory.ranges`) is address space into which they are mapped. A
piece that leaves one range can back another at once, so memory moves between the layer kinds without leaving the
device. Pieces nobody uses go back to the device after a quiet time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from farspan.errors import FarspanError, InputError
from farspan.kv.memory.budget.member import BudgetMember
from farspan.kv.memory.budget.neighbours import RoomWait
from farspan.kv.memory.budget.pool_budget import PoolBudget
from farspan.kv.memory.budget.prospect import Prospect
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.driver import Driver, Fence, Handle, NoRoomError
from farspan.kv.memory.idle_segments import IdleSegment, IdleSegments
from farspan.kv.memory.lenders import Evictor, Lender
from farspan.kv.memory.segment_statistics import SegmentStatistics
from farspan.sizes import format_bytes

__all__ = ["Evictor", "Lender", "NoRoomError", "SegmentPool", "SegmentStatistics"]

# Of the quiet time: ranges let go of what they do not use after a half, the pool after three quarters, so that bytes
# are back within the whole of it when `tick` is called at least four times as often.
UNMAP_AFTER = 0.5
DESTROY_AFTER = 0.75


class SegmentPool:
    """The physical memory that ranges share.

    `take`, `give`, `room` and `tick` belong to one thread, that of the scheduler; `statistics` and `limit_segments` may
    be asked from any.

    Args:
        driver: Of the device. The pool does not close it.
        segment_bytes: Of every segment; a multiple of the driver's granularity.
        cap: The most to hold.
        quiet_s: Memory is back with the device this long after its last use, if `tick` is called often enough.
        reread_s: How old the device's free memory may be for `room`; `take` always reads it before it creates.
        clock: Seconds.
        budget: The budget that the pool shares with other processes; None for no other limit than `cap`.
    """

    def __init__(
        self,
        driver: Driver,
        segment_bytes: int,
        cap: Cap | None = None,
        *,
        quiet_s: float = 10.0,
        reread_s: float = 0.05,
        clock: Callable[[], float] = time.monotonic,
        budget: BudgetMember | None = None,
    ) -> None:
        if segment_bytes <= 0 or segment_bytes % driver.granularity:
            raise InputError(
                f"segments of {segment_bytes} bytes do not fit the device",
                f"choose a multiple of {format_bytes(driver.granularity)}",
            )
        self.driver = driver
        self.segment_bytes = segment_bytes
        self.quiet_s = quiet_s
        self.clock = clock
        self._cap = cap or Cap()
        self._reread_s = reread_s
        self.budget = PoolBudget(budget, segment_bytes, clock) if budget else None
        self._evictors: list[Evictor] = []
        self._next_evict = float("-inf")
        self._limit_segments = self._soon_segments = 0
        self._limit_until = self._next_look = float("-inf")
        self._idle = IdleSegments()
        self._created = self._kept = 0
        self._lenders: list[Lender] = []
        self._surrendering = False
        self._ever_created = self._ever_destroyed = self._surrendered = 0
        self._lock = threading.Lock()
        self._closed = False

    # --- taking and giving ---------------------------------------------------------------------------------------

    def take(self, count: int) -> list[Handle]:
        """Return `count` segments, unmapped; idle ones first, then new ones; all or none.

        When neither is enough, holders surrender what they have empty.

        =====================  ================  ======================  ==============
        who has the segments   before            after                   after an error
        =====================  ================  ======================  ==============
        idle ones              the pool          the caller              the pool
        new ones               the device        the caller              the device
        surrendered ones       another holder    the pool or the caller  the pool
        =====================  ================  ======================  ==============

        Raises:
            NoRoomError: The cap, or the device, has no room for so many.
        """
        if count <= 0:
            return []
        taken, fresh = self._claim(count)
        created: list[Handle] = []
        try:
            self.driver.create_into(created, self.segment_bytes, fresh)
        except FarspanError:
            self._unclaim(taken, created, fresh)
            raise
        with self._lock:
            self._ever_created += fresh
        return [idle.handle for idle in taken] + created

    @property
    def kept(self) -> int:
        """The segments that are held whether used or not; see `keep`."""
        return self._kept

    def give(self, handles: Sequence[Handle], fence: Fence | None = None, since: float | None = None) -> None:
        """Take segments back, unmapped. They are idle now: usable again at once, destroyed after the quiet time.

        Args:
            handles: The segments.
            fence: They are not destroyed before it has passed.
            since: The clock when they were last used; None for now.
        """
        since = self.clock() if since is None else since
        with self._lock:
            self._idle.add([IdleSegment(handle, since, fence) for handle in handles])

    def keep(self, count: int) -> None:
        """Hold `count` segments from now on, used or not: what is idle goes back to the device beyond them alone.

        A budget that others need is stronger, and so is a cap that comes down below them.

        Raises:
            NoRoomError: There is no room for so many; none is kept then.
        """
        self.give(self.take(count - self._created + len(self._idle)))
        self._kept = count

    def room(self) -> int:
        """Return the segments that `take` could give now: idle, creatable, or surrendered by their holders."""
        if self.clock() >= self._limit_until:
            self._reread()
        with self._lock:
            creatable = max(0, self._limit_segments - self._created)
        return creatable + self._reusable()

    def limit_segments(self) -> int:
        """Return the most segments there may be, once members of the same budget gave back what they do not need.

        Asks no lender, so that any thread may call it.
        """
        if self.clock() >= self._limit_until:
            self._reread()
        with self._lock:
            return self._soon_segments

    def promise(self, count: int, needed: int = 0) -> bool:
        """Keep room for `count` segments beyond those that are lent, until the next call; False if there is none.

        Without a budget this is `room`, asked once. With one, its members hear of it where there is no room.

        Args:
            count: Segments.
            needed: Segments that may be taken in all, also where what evictors keep is now: so much is not idle.
        """
        fits = count <= self.room()
        if self.budget is None:
            return fits
        return self._promise(max(0, count - self._reusable()), needed, fits)

    def prospect(self, wait: RoomWait | None = None) -> Prospect:
        """Return what there may come to be, in bytes, as far as is settled; see `attainable`.

        Args:
            wait: Of the request that asks; None for one that has not begun to wait, to which limits alone are settled.
        """
        self._reread()
        if self.budget is None:
            return Prospect(self._soon_segments * self.segment_bytes)
        return self.budget.prospect(self._cap, self.driver.memory(), self._created * self.segment_bytes, wait)

    def withdraw_wish(self) -> None:
        """Wish for no more: who waited for room waits no longer."""
        self._wish(0)

    def lower_promise(self, count: int, needed: int = 0) -> None:
        """Let others have what was promised beyond room for `count` segments; see `promise`."""
        if self.budget is not None:
            self.budget.lower_promise(max(0, count - self._reusable()), needed)

    def promise_all(self, count: int) -> bool:
        """Keep room for `count` segments in all, those that there are among them; see `promise`.

        For who could empty all that is lent: without a budget there is nothing to wait for.
        """
        if self.budget is None:
            return True
        self._reread()
        return self._promise(max(0, count - self._created), count, count <= self._limit_segments)

    def tick(self, most: int | None = None) -> None:
        """Give back what was idle for long enough, and follow the cap down; call it between steps.

        Above the cap, or the budget's, idle segments go at once, then what lenders have empty, then what evictors keep.

        Args:
            most: Segments to give back at once because they were idle; None for all.
        """
        now = self.clock()
        looks = now >= min(self._next_look, self._limit_until)
        if looks:
            self._next_look = now + self._reread_s
            self._report()  # what is idle here is part of who must give how much
            self._reread()
        trim = self.budget is not None and self.budget.trim_is_asked
        excess = self._created - (self._kept if trim else self._limit_segments)
        if excess > len(self._idle):
            self._call_in(excess - len(self._idle))
        if now >= self._next_evict and not trim and excess > len(self._idle):
            self._next_evict = now + self._reread_s
            self._evict(excess - len(self._idle))
        self._destroy_idle(now - DESTROY_AFTER * self.quiet_s, excess, most)
        if trim and self.budget is not None:
            self.budget.trimmed()
        self._report(looks)

    def _destroy_idle(self, due: float, excess: int, most: int | None) -> None:
        """Destroy what has been idle since before `due`, `most` segments, and up to `excess` of them in any case."""
        with self._lock:
            spare = min(self._created if most is None else most, self._created - self._kept)
            going = self._idle.take_due(due, spare=spare, excess=excess)
        self._destroy(going)

    # --- who else holds segments ---------------------------------------------------------------------------------

    def register(self, lender: Lender) -> None:
        """Let `lender` be asked for empty segments when there is no other room."""
        self._lenders.append(lender)

    def unregister(self, lender: Lender) -> None:
        """Ask `lender` no more."""
        self._lenders.remove(lender)

    def register_evictor(self, evictor: Evictor) -> None:
        """Have `evictor` make room when the pool must shrink and nothing is empty."""
        self._evictors.append(evictor)

    # --- looking at it -------------------------------------------------------------------------------------------

    def statistics(self) -> SegmentStatistics:
        """Return what the pool holds now."""
        with self._lock:
            idle = len(self._idle)
            return SegmentStatistics(
                segment_bytes=self.segment_bytes,
                created=self._created,
                lent=self._created - idle,
                idle=idle,
                cap=self._soon_segments,
                limit=self._limit_segments,
                ever_created=self._ever_created,
                ever_destroyed=self._ever_destroyed,
                surrendered=self._surrendered,
            )

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        with self._lock:
            handles = self._idle.handles
            assert len(set(handles)) == len(handles), "a segment is idle once"
            for handle in handles:
                assert handle.alive, "idle segments are alive"
                assert handle.address is None, "idle segments are not mapped"
            assert len(handles) <= self._created, "idle segments are held"
            assert self._created == self._ever_created - self._ever_destroyed, "segments are miscounted"

    def close(self) -> None:
        """Give every idle segment back; ranges must have given theirs back before."""
        if self._closed:
            return
        self._closed = True
        self._destroy(self._idle.clear())
        if self.budget is not None:
            self.budget.close()

    # --- inside --------------------------------------------------------------------------------------------------

    def _claim(self, count: int) -> tuple[list[IdleSegment], int]:
        """Return idle segments, no longer the pool's, and how many more may be created, counted as held already."""
        if len(self._idle) < count:
            self._reread()
        for surrendered in (False, True):
            with self._lock:
                fresh = max(0, count - len(self._idle))
                missing = fresh and fresh - max(0, self._limit_segments - self._created)
                granted = missing <= 0 and (self.budget is None or self.budget.claim(fresh))
                if granted:
                    taken = self._idle.take(count)
                    self._created += fresh
                    return taken, fresh
            if not surrendered:
                self._call_in(fresh if missing <= 0 else missing)
        self._wish(fresh)
        size, limit = format_bytes(count * self.segment_bytes), self._limit_segments * self.segment_bytes
        raise NoRoomError(
            f"{size} more of elastic memory do not fit: {format_bytes(self._created * self.segment_bytes)} held, "
            f"{format_bytes(limit)} allowed now{self.budget.describe() if self.budget else ''}",
            "free pages, raise the cap, or take less memory beside it",
        )

    def _unclaim(self, taken: list[IdleSegment], created: list[Handle], fresh: int) -> None:
        """Undo a claim of which only some could be created."""
        with self._lock:
            self._idle.add(taken)
            self._created -= fresh - len(created)
            self._ever_created += len(created)
            if self.budget:
                self.budget.give(fresh - len(created))
        self._limit_until = float("-inf")  # the device has less than it said
        self._destroy(created)

    def _call_in(self, count: int) -> None:
        """Have holders surrender up to `count` empty segments."""
        if self._surrendering:  # a lender that surrenders must not set off another round
            return
        self._surrendering = True
        try:
            for lender in self._lenders:
                if count > 0:
                    got = lender.surrender(count)
                    self._surrendered += got
                    count -= got
        finally:
            self._surrendering = False

    def _evict(self, count: int) -> None:
        """Have evictors empty up to `count` segments of lenders, and call these in."""
        # Not in a loop: what was emptied a moment ago may wait for its fence, and would be asked for twice.
        for evictor in self._evictors:
            if count > 0 and evictor.evict(count):
                before = len(self._idle)
                self._call_in(count)
                count -= len(self._idle) - before

    def _reusable(self) -> int:
        """Return the segments that nobody uses: idle ones, and those that lenders have empty."""
        return len(self._idle) + sum(lender.surrenderable() for lender in self._lenders)

    def _promise(self, fresh: int, needed: int, fits: bool) -> bool:
        kept = fits and self.budget is not None and self.budget.promise(fresh, needed)
        if not kept:
            self._wish(fresh)
        return kept

    def _wish(self, count: int) -> None:
        if self.budget is not None:
            self.budget.wish(count)
            self._report()

    def _report(self, looked: bool = False) -> None:
        if self.budget is not None:
            self.budget.report(min(self._unneeded(), self._created), looked)

    def _unneeded(self) -> int:
        """Return about how many segments nobody uses, or evictors could empty."""
        return self._reusable() + sum(each.evictable() for each in self._evictors)

    def _reread(self) -> None:
        memory = self.driver.memory()
        with self._lock:
            held = self._created * self.segment_bytes
            if self.budget:
                now, soon = self.budget.limits(self._cap, memory, held)
            else:
                now = soon = self._cap.limit(memory, held)
            self._limit_segments, self._soon_segments = now // self.segment_bytes, soon // self.segment_bytes
            self._limit_until = self.clock() + self._reread_s

    def _destroy(self, handles: list[Handle]) -> None:
        done = 0
        try:
            for handle in handles:
                self.driver.destroy(handle)
                done += 1
                with self._lock:
                    self._created -= 1
                    self._ever_destroyed += 1
        except FarspanError:
            self.give(handles[done:], since=float("-inf"))  # kept, and tried again at the next tick
            raise
        finally:
            if self.budget:
                # What was idle or kept, and went, is still promised to requests that were admitted to it.
                needed = self.budget.needed
                self.budget.give(done, max(0, needed - self._unneeded()) if needed else 0)
