"""Who can make room in a segment pool: holders of empty segments, and keepers of what nobody needs now."""

from __future__ import annotations

from typing import Protocol


class Lender(Protocol):
    """Somebody who holds segments of a pool and could let go of empty ones."""

    def surrenderable(self) -> int:
        """Return the segments that `surrender` would give back now."""

    def surrender(self, count: int) -> int:
        """Give back up to `count` empty segments through `SegmentPool.give`; return how many."""


class Evictor(Protocol):
    """Somebody who keeps, in the segments of lenders, what nobody needs now."""

    def evictable(self) -> int:
        """Return about how many segments `evict` could empty."""

    def evict(self, count: int) -> bool:
        """Let go of what about `count` segments hold; return whether anything went."""
