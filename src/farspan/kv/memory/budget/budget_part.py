"""What one segment pool has of a member's place in a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class PartOwner(Protocol):
    """What a part needs of the member that it belongs to."""

    @property
    def held(self) -> int:
        """What all parts hold."""

    @property
    def promised(self) -> int:
        """What was promised to all parts."""

    @property
    def wish_is_old(self) -> bool:
        """Whether a wish that stays has to be said again."""

    def take(self, size: int, free: int, change: Callable[[], None], undo: Callable[[], None]) -> bool:
        """Carry out a change after which the member has `size` bytes, if the budget allows it."""

    def change(self, change: Callable[[], None], *, wishes: bool = False) -> None:
        """Carry out a change that needs nobody's leave."""

    def leave(self, part: BudgetPart) -> None:
        """Forget a part."""


class BudgetPart:
    """What one segment pool of a member holds, in bytes.

    Attributes:
        held: Physical memory.
        promised: What it may take beyond that for requests that were admitted.
        wished: What it would take beyond `held` if there were room; 0 when it lacks nothing.
        idle: Of `held`, what no request needs.
        looks: How often the pool has looked at the budget and given back what it had to.
        wished_since: Since when it has wished without a break, in ns of the monotonic clock.
    """

    def __init__(self, member: PartOwner) -> None:
        self.member = member
        self.held = self.promised = self.wished = self.idle = 0
        self.looks = self.wished_since = 0

    def claim(self, size: int, free: int) -> bool:
        """Count `size` more bytes as held; False, and no change, when the budget has no room for them.

        Args:
            size: Bytes.
            free: What is free on the device.
        """
        before = self.held, self.promised, self.wished
        after = self.held + size, max(0, self.promised - size), max(0, self.wished - size)
        member = self.member

        def put(state: tuple[int, int, int]) -> None:
            self.held, self.promised, self.wished = state

        whole = member.held + member.promised + sum(after[:2]) - sum(before[:2])
        return member.take(whole, free, lambda: put(after), lambda: put(before))

    def give(self, size: int, needed: int = 0) -> None:
        """Count `size` bytes as given back, and as much of it as promised that admitted requests will take again.

        Args:
            size: Bytes.
            needed: What they may still take and is not held.
        """

        def put() -> None:
            self.held -= size
            self.promised = max(self.promised, min(self.promised + size, needed))

        self.member.change(put)

    def promise(self, size: int, free: int) -> bool:
        """Keep `size` bytes beyond what it holds; False, and no change, without room for them."""
        before = self.promised, self.wished

        def put(promised: int, wished: int) -> None:
            self.promised, self.wished = promised, wished

        if size <= self.promised:
            if (size, 0) != before:
                self.member.change(lambda: put(size, 0))
            return True
        whole = self.member.held + self.member.promised + size - self.promised
        return self.member.take(whole, free, lambda: put(size, 0), lambda: put(*before))

    def lower_promise(self, size: int) -> None:
        """Let others have what was promised beyond `size` bytes."""

        def put() -> None:
            self.promised = size

        if size < self.promised:
            self.member.change(put)

    def report(self, idle: int, wished: int, since: int = 0, looked: bool = False) -> None:
        """Say what is held and not needed, and what would be taken beyond what is held.

        Args:
            idle: Bytes that are not needed.
            wished: Bytes that would be taken.
            since: Since when these are wished for, in ns of the monotonic clock.
            looked: Whether this comes after a look at the budget, with what had to be given back given back.
        """

        def put() -> None:
            self.idle, self.wished, self.wished_since = idle, wished, since
            self.looks += looked

        if looked or (self.idle, self.wished) != (idle, wished) or (wished and self.member.wish_is_old):
            self.member.change(put, wishes=bool(wished))

    def close(self) -> None:
        """Count no more as a part of the member: its pool is closed."""
        self.member.leave(self)
