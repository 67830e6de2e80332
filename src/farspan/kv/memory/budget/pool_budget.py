"""A segment pool's side of a budget: the same questions in segments, and the cap of the pool within the budget's."""

from __future__ import annotations

from collections.abc import Callable

from farspan.kv.memory.budget.budget_file import name_and_device
from farspan.kv.memory.budget.fair_share import Allowance
from farspan.kv.memory.budget.member import BudgetMember, Outlook
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
        self.wished, self._wished_until = 0, float("-inf")
        self._trims_done = 0

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

    def claim(self, count: int) -> bool:
        """Count `count` more segments as the pool's; False, and no change, without room for them."""
        if count and not self._part.claim(count * self._segment_bytes, self._free):
            return False
        self.wished = max(0, self.wished - count)
        return True

    def give(self, count: int) -> None:
        """Count `count` segments as given back."""
        if count:
            self._part.give(count * self._segment_bytes)

    def promise(self, count: int) -> bool:
        """Keep room for `count` segments beyond what is held; False, and no change, without room for them."""
        if not self._part.promise(count * self._segment_bytes, self._free):
            return False
        self.wished = 0
        return True

    def lower_promise(self, count: int) -> None:
        """Let others have what was promised beyond `count` segments."""
        self._part.lower_promise(count * self._segment_bytes)

    def wish(self, count: int) -> None:
        """Remember that `count` more segments would be created if there were room, within the pool's own cap."""
        if self._most is not None:
            count = min(count, max(0, self._most - self._part.held) // self._segment_bytes)
        self.wished, self._wished_until = count, self._clock() + _WISH_S

    def report(self, idle: int) -> None:
        """Tell the others how many segments are idle, and what is wished for if that was said lately."""
        if self._clock() >= self._wished_until:
            self.wished = 0
        self._part.report(idle * self._segment_bytes, self.wished * self._segment_bytes)

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
