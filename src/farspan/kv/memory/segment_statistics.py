"""What a segment pool says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SegmentStatistics:
    """What a pool holds, in segments unless said otherwise.

    Attributes:
        segment_bytes: Bytes of one.
        created: Physical segments held: lent plus idle.
        lent: Handed out to ranges.
        idle: Held and unused: usable at once, destroyed after the quiet time.
        cap: The most that may be held, once members of the same budget have given back what they do not need.
        limit: The most that may be held at this moment.
        ever_created: Created since the start.
        ever_destroyed: Destroyed since the start.
        surrendered: Times a range let go of an empty segment early because another needed it.
    """

    segment_bytes: int
    created: int
    lent: int
    idle: int
    cap: int
    limit: int
    ever_created: int
    ever_destroyed: int
    surrendered: int

    @property
    def unused(self) -> int:
        """What can be had without asking anybody: idle, or to be created."""
        return self.idle + max(0, self.limit - self.created)
