"""Segments that nobody uses: taken again first, given back to the device after a quiet time, but for those to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farspan.kv.memory.drivers.driver import Fence, Handle


@dataclass(slots=True)
class IdleSegment:
    """One of them.

    Attributes:
        handle: The memory, unmapped.
        since: The clock when it was last used.
        fence: It is not destroyed before this has passed.
    """

    handle: Handle
    since: float
    fence: Fence | None


class IdleSegments:
    """Those of one pool, whose lock guards every call."""

    def __init__(self) -> None:
        self._idle: list[IdleSegment] = []  # oldest first: taken from the end

    def __len__(self) -> int:
        return len(self._idle)

    @property
    def handles(self) -> list[Handle]:
        """Their memory, the longest idle first."""
        return [idle.handle for idle in self._idle]

    def add(self, segments: Sequence[IdleSegment]) -> None:
        """Take segments in."""
        self._idle.extend(segments)
        self._idle.sort(key=lambda idle: idle.since)

    def take(self, count: int) -> list[IdleSegment]:
        """Remove and return at most `count`, the last used."""
        cut = max(0, len(self._idle) - count)
        taken = self._idle[cut:]
        del self._idle[cut:]
        return taken

    def take_due(self, due: float, *, spare: int, excess: int) -> list[Handle]:
        """Remove and return what may go, as far as fences have passed.

        Args:
            due: What was last used before this goes.
            spare: So many may go for that.
            excess: So many go in any case.
        """
        going: list[IdleSegment] = []
        staying: list[IdleSegment] = []
        for idle in self._idle:
            wanted = (idle.since <= due and len(going) < spare) or len(going) < excess
            passed = idle.fence is None or idle.fence.done()
            (going if wanted and passed else staying).append(idle)
        self._idle = staying
        return [idle.handle for idle in going]

    def clear(self) -> list[Handle]:
        """Remove and return all."""
        handles, self._idle = self.handles, []
        return handles
