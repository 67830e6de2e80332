"""What a server's log says of its elastic memory: when it has grown or shrunk, and when requests wait for more.

    farspan memory: grew to 12.3 GiB: held=13207024435 idle=0 lacking=0 allowed=68719476736 exchanged=0
    farspan memory: waits for 3.0 GiB: held=... lacking=3221225472 ... by=neighbours budget=shared limit=96636764160
        neighbours=1 neighbours_held=51539607552

One line each, all sizes in bytes, for `grep` and for `farspan doctor`.
"""

from __future__ import annotations

from collections.abc import Callable

from farspan.kv.memory.segments import SegmentPool
from farspan.sizes import format_bytes

_EVERY_S = 5.0
_WORTH_SAYING = 0.05  # of what was held at the last line


class MemoryLog:
    """Writes lines about one segment pool, of each kind no more often than every few seconds.

    Args:
        segments: The pool.
        write: Takes a line.
        every_s: Seconds between lines.
    """

    def __init__(
        self, segments: SegmentPool, write: Callable[[str], None], every_s: float = _EVERY_S
    ) -> None:
        self._segments = segments
        self._write = write
        self._every_s = every_s
        self._next = {waits: float("-inf") for waits in (False, True)}
        self._held = 0

    def note(self) -> None:
        """Look, and write a line if there is something to say and it is time; call it with every tick."""
        segments, now = self._segments, self._segments.clock()
        if now < min(self._next.values()):
            return
        counts = segments.statistics()
        held = counts.created * counts.segment_bytes
        lacking = segments.budget.wished * counts.segment_bytes if segments.budget else 0
        change = held - self._held
        if now < self._next[lacking > 0]:
            return
        if lacking:
            said = f"waits for {format_bytes(lacking)}"
        elif abs(change) > max(_WORTH_SAYING * self._held, counts.segment_bytes):
            said = f"{'grew' if change > 0 else 'shrank'} to {format_bytes(held)}"
        else:
            return
        self._next[lacking > 0], self._held = now + self._every_s, held
        figures = {
            "held": held,
            "idle": counts.idle * counts.segment_bytes,
            "lacking": lacking,
            "allowed": counts.limit * counts.segment_bytes,
            "exchanged": counts.surrendered * counts.segment_bytes,
        }
        pairs = " ".join(f"{name}={value}" for name, value in figures.items())
        self._write(f"farspan memory: {said}: {pairs}{self._why(lacking)}")

    def _why(self, lacking: int) -> str:
        """What limits the pool, and who is beside it."""
        budget = self._segments.budget
        outlook = budget.outlook if budget else None
        if budget is None or outlook is None:
            return ""
        by = f" by={self._limiter(lacking)}" if lacking else ""
        limit = "none" if outlook.limit is None else outlook.limit
        return (
            f"{by} budget={budget.name} limit={limit} neighbours={outlook.neighbours} "
            f"neighbours_held={outlook.neighbours_held}"
        )

    def _limiter(self, lacking: int) -> str:
        """Return whether neighbours hold what is lacking, the budget's limit is too low, or the device is full."""
        budget = self._segments.budget
        assert budget is not None
        outlook = budget.outlook
        assert outlook is not None
        if outlook.neighbours_held >= lacking:
            return "neighbours"
        free = (
            outlook.limit is not None
            and budget.member.held + outlook.neighbours_held + lacking > outlook.limit
        )
        return "limit" if free else "device"
