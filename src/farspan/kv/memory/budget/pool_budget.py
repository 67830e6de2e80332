"""A segment pool's side of a budget: the same questions in segments, and the cap of the pool within the budget's."""

from __future__ import annotations

import time
from collections.abc import Callable

from farspan.kv.memory.budget.budget_file import name_and_device
from farspan.kv.memory.budget.fair_share import Allowance
from farspan.kv.memory.budget.member import BudgetMember, Outlook
from farspan.kv.memory.budget.neighbours import RoomWait
from farspan.kv.memory.budget.prospect import Prospect
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.driver import Memory
from farspan.sizes import format_bytes

POLL_S = 0.1  # how long a member may wait for what another has idle: how often an idle one looks
_WISH_S = 2.0  # a wish is for so long, unless it is said again


class PoolBudget:
    """The account of one pool.

    Args:
        member: The process's place in the budget.
        segment_bytes: Of every segment of the pool.
        clock: Seconds.
    """

    def __init__(self, member: BudgetMember, segment_bytes: int, clock: Callable[[], float]) -> None:
        self.member = member
        self.outlook: Outlook | None = None
        self._part = member.part()
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._free = 0
        self._most: int | None = None
        self.wished, self._wished_until, self._wished_since = 0, float("-inf"), 0
        self._trims_done = 0
        # Segments that admitted requests may still take: idle or kept ones, and promised ones.
        self.needed = 0

    @property
    def name(self) -> str:
        """The budget's name."""
        return name_and_device(self.member.path)[0]

    def limits(self, cap: Cap, memory: Memory, held: int) -> tuple[int, int]:
        """Return the bytes that the pool may hold at this moment, and once others have given back what they owe.

        A budget that cannot be read allows what is held already.
        """
        self._free, self.outlook = memory.free, self.member.outlook(memory.free)
        self._most = cap.fixed_bytes
        siblings = self.member.held - self._part.held
        allowed = self.outlook.allowance if self.outlook else Allowance(held + siblings, held + siblings)
        expected = Memory(memory.free + allowed.soon - allowed.now, memory.total)
        now = min(cap.limit(memory, held), allowed.now - siblings)
        soon = min(cap.limit(expected, held), allowed.soon - siblings)
        return max(0, now), max(0, soon)

    def prospect(self, cap: Cap, memory: Memory, held: int, wait: RoomWait | None) -> Prospect:
        """Return what the pool may come to hold; see `BudgetMember.prospect`."""
        found = self.member.prospect(memory.free, wait)
        siblings = self.member.held - self._part.held
        now = self.outlook.allowance.now if self.outlook else found.size
        expected = Memory(memory.free + max(0, found.size - now), memory.total)
        size = min(cap.limit(expected, held), found.size - siblings)
        return found._replace(size=max(0, size))

    def claim(self, count: int) -> bool:
        """Count `count` more segments as the pool's; False, and no change, without room for them."""
        if count and not self._part.claim(count * self._segment_bytes, self._free):
            return False
        self.wished = max(0, self.wished - count)
        return True

    def give(self, count: int, needed: int = 0) -> None:
        """Count `count` segments as given back; requests that were admitted still need `needed` that are not held."""
        if count:
            self._part.give(count * self._segment_bytes, needed * self._segment_bytes)

    def promise(self, count: int, needed: int = 0) -> bool:
        """Keep room for `count` segments beyond what is held; False, and no change, without room for them.

        Args:
            count: Segments.
            needed: Segments that may be taken in all, of what is idle or kept now too.
        """
        if not self._part.promise(count * self._segment_bytes, self._free):
            return False
        self.wished, self.needed = 0, needed
        return True

    def lower_promise(self, count: int, needed: int = 0) -> None:
        """Let others have what was promised beyond `count` segments; see `promise`."""
        self.needed = needed
        self._part.lower_promise(count * self._segment_bytes)

    def wish(self, count: int) -> None:
        """Remember that `count` more segments would be created if there were room, within the pool's own cap."""
        if self._most is not None:
            count = min(count, max(0, self._most - self._part.held) // self._segment_bytes)
        now = self._clock()
        if not self.wished or now >= self._wished_until:
            self._wished_since = time.monotonic_ns()
        self.wished, self._wished_until = count, now + _WISH_S

    def report(self, idle: int, looked: bool = False) -> None:
        """Tell the others how many segments are idle, and what is wished for if that was said lately.

        Args:
            idle: Segments.
            looked: Whether this comes after a look at the budget, with what had to be given back given back.
        """
        if self._clock() >= self._wished_until:
            self.wished = 0
        idle -= max(0, self.needed - self._part.promised // self._segment_bytes)
        self._part.report(
            max(0, idle) * self._segment_bytes, self.wished * self._segment_bytes, self._wished_since, looked
        )

    def close(self) -> None:
        """Leave the member; the pool is closed."""
        self._part.close()

    @property
    def trim_is_asked(self) -> bool:
        """Whether somebody asked for idle memory since the last time."""
        return self.outlook is not None and self.outlook.trims_asked != self._trims_done

    def trimmed(self) -> None:
        """Say that idle memory was given back as asked."""
        if self.outlook is not None:
            self._trims_done = self.outlook.trims_asked
            self.member.trimmed(self._trims_done)

    def beside(self) -> dict[str, int]:
        """Return what is lacking here, and what neighbours hold, in bytes."""
        held = self.outlook.neighbours_held if self.outlook else 0
        return {"lacking_bytes": self.wished * self._segment_bytes, "neighbours_bytes": held}

    def describe(self) -> str:
        """Return who else has how much, for an error."""
        if self.outlook is None:
            return f", the budget {self.member.path.stem} cannot be read"
        limit = "" if self.outlook.limit is None else f" of {format_bytes(self.outlook.limit)}"
        return (
            f" in the budget {self.member.path.stem}{limit}, {format_bytes(self.outlook.neighbours_held)} of which "
            f"{self.outlook.neighbours} neighbours hold"
        )
