"""A map from the slots of one pool to those of another, in elastic memory: 8 bytes for a slot that has memory.

Kernels look up slots of requests that ended long ago, behind the end of a row, so that all of it can be read: zero
where nothing was written.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from farspan.errors import FarspanError
from farspan.kv.memory.backing import Backing, SegmentSpan
from farspan.kv.memory.ranges import ZeroBackedRange

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from farspan.kv.memory.segments import SegmentPool

_ENTRY = 8


class SlotMap:
    """`slots` entries of int64 and a last one that is -1, at index -1 too. Not safe to share between threads.

    Args:
        segments: Where the memory comes from.
        slots: Slots there can ever be.
        wait: Returns when nothing queued on the device touches the map any more.

    Raises:
        NoRoomError: There is no memory for its last segment.
    """

    def __init__(self, segments: SegmentPool, slots: int, wait: Callable[[], None]) -> None:
        import torch

        self._pool = segments
        self._backing = Backing(segments, [(slots + 1) * _ENTRY], partial(ZeroBackedRange, wait=wait))
        self._last = slots * _ENTRY // segments.segment_bytes
        self._covered = 0  # segments from the start
        segments.register(self._backing)
        try:
            self._backing.hold([SegmentSpan(0, self._last, self._last + 1)])
        except FarspanError:
            self.close()
            raise
        self.tensor: torch.Tensor = self._backing.ranges[0].tensor(torch.int64, (slots + 1,))
        self.tensor[-1] = -1

    @property
    def mapped_bytes(self) -> int:
        """Physical bytes mapped for the map now."""
        return self._backing.mapped_bytes

    def cover(self, slots: int) -> None:
        """Have memory for the first `slots` entries, so that they can be written; new memory is zero.

        Raises:
            NoRoomError: There is none; nothing has changed.
        """
        stop = min(-(-slots * _ENTRY // self._pool.segment_bytes), self._last)
        if stop > self._covered:
            self._backing.hold([SegmentSpan(0, self._covered, stop)])
            self._covered = stop

    def uncover(self, slots: int) -> None:
        """Let go of memory behind the first `slots` entries, which nobody may write any more."""
        stop = -(-slots * _ENTRY // self._pool.segment_bytes)
        if stop < self._covered:
            self._backing.release([SegmentSpan(0, stop, self._covered)])
            self._covered = stop

    def clear(self) -> None:
        """Set all entries to zero but the last."""
        entries = self._covered * self._pool.segment_bytes // _ENTRY
        self.tensor[: min(entries, len(self.tensor) - 1)].zero_()
        start = self._last * self._pool.segment_bytes // _ENTRY
        self.tensor[start:-1].zero_()

    def tick(self) -> None:
        """Let go of memory that was not needed for the quiet time."""
        self._backing.tick()

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        self._backing.check_integrity()
        one = self._backing.ranges[0]
        assert all(one.mapped(index) for index in range(self._covered)), "what is covered has memory"
        assert one.mapped(self._last), "the last entry has memory"

    def close(self) -> None:
        """Give all memory back; views must not be used afterwards. Closing twice does nothing."""
        if self._backing.ranges:
            self._pool.unregister(self._backing)
            self._backing.close()
