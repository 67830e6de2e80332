"""Rows of a table that cost what is held of them, and that can be read to their end: zero beyond what was written.

An engine's table of requests and their tokens is as wide as the context and as high as the requests that may ever run,
and kernels gather rectangles of it. Here a row has memory from its start to where its request can end; the rest of the
table, and all of it at first, is one piece of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from farspan.errors import InputError
from farspan.kv.memory.backing import Backing, SegmentSpan
from farspan.kv.memory.drivers.driver import Handle, NoRoomError
from farspan.kv.memory.ranges import ZeroBackedRange
from farspan.kv.memory.segments import SegmentPool

if TYPE_CHECKING:
    import torch


class ZeroBackedRows:
    """A table of rows in elastic memory. Not safe to share between threads.

    Args:
        segments: Where the memory comes from.
        rows: Rows there are.
        row_bytes: Bytes of a row.
        wait: Returns when nothing queued on the device touches the table any more.

    Raises:
        NoRoomError: There is no memory for the whole of one row, which is kept in reserve.
    """

    def __init__(self, segments: SegmentPool, rows: int, row_bytes: int, wait: Callable[[], None]) -> None:
        if rows <= 0 or row_bytes <= 0:
            raise InputError("a table needs at least one row, and a row one byte")
        self._pool = segments
        self.rows = rows
        self.row_bytes = row_bytes
        self._backing = Backing(segments, [rows * row_bytes], partial(ZeroBackedRange, wait=wait))
        self._held: dict[int, int] = {}  # row -> segment after the last that is backed for it
        self.row_segments = -(-row_bytes // segments.segment_bytes) + 1
        self._reserve: list[Handle] = []
        segments.register(self._backing)
        try:
            self._reserve = segments.take(self.row_segments)
        except NoRoomError:
            self.close()
            raise

    @property
    def mapped_bytes(self) -> int:
        """Physical bytes mapped for the table now."""
        return self._backing.mapped_bytes

    @property
    def held_rows(self) -> int:
        """Rows that have memory held for them."""
        return len(self._held)

    def hold(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Back each (row, bytes) of `sizes` from the row's start, or further than before; all or none.

        Raises:
            InputError: There is no such row, or it has not so many bytes.
            NoRoomError: There is no memory for them; nothing has changed.
        """
        spans: list[SegmentSpan] = []
        held = dict(self._held)
        for row, size in sizes:
            if not 0 <= row < self.rows or not 0 < size <= self.row_bytes:
                raise InputError(f"{size} bytes of row {row}, in {self.rows} rows of {self.row_bytes} bytes")
            stop = -(-(row * self.row_bytes + size) // self._pool.segment_bytes)
            start = held.get(row, self._first_segment(row))
            if stop > start:
                spans.append(SegmentSpan(0, start, stop))
            held[row] = max(stop, start)
        try:
            self._backing.hold(spans)
        except NoRoomError:
            self._pool.give(self._reserve)
            self._reserve = []
            self._backing.hold(spans)
        self._held = held

    def release(self, row: int) -> None:
        """Let go of a row. Its memory stays for the next request, and goes after the quiet time if none comes."""
        stop = self._held.pop(row, None)
        if stop is not None and stop > self._first_segment(row):
            self._backing.release([SegmentSpan(0, self._first_segment(row), stop)])

    def affordable(self) -> int:
        """Return how many whole rows could surely be held now, the reserve's among them; it is filled up again."""
        if len(self._reserve) < self.row_segments:
            self.reserve(self.row_segments)
        return (len(self._reserve) + self._pool.room()) // self.row_segments

    def reserve(self, segments: int) -> bool:
        """Have so many segments in reserve for rows to come, no more and no less; return whether there was room."""
        excess = len(self._reserve) - segments
        if excess > 0:
            self._pool.give(self._reserve[:excess])
            del self._reserve[:excess]
        elif excess < 0:
            try:
                self._reserve += self._pool.take(-excess)
            except NoRoomError:
                return False
        return True

    def tensor(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the whole table, [rows, entries a row]; writing beyond what is held faults."""
        return self._backing.ranges[0].tensor(dtype, (self.rows, self.row_bytes // dtype.itemsize))

    def tick(self) -> None:
        """Let go of memory that no row has used for the quiet time; call it when the device has little to do."""
        self._backing.tick()
        self._pool.tick()

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        self._backing.check_integrity()
        one = self._backing.ranges[0]
        for row, stop in self._held.items():
            backed = (one.mapped(index) for index in range(self._first_segment(row), stop))
            assert all(backed), "a row that is held has memory"

    def close(self) -> None:
        """Give all memory back; views must not be used afterwards. Closing twice does nothing."""
        if self._backing.ranges:
            self._pool.unregister(self._backing)
            self._backing.close()
            self._pool.give(self._reserve)
            self._reserve = []

    def _first_segment(self, row: int) -> int:
        return row * self.row_bytes // self._pool.segment_bytes


def table_segment_bytes(granularity: int, total: int, most: int = 4096) -> int:
    """Return the segment size of a table of `total` bytes: the least that takes no more than about `most` mappings."""
    size = granularity
    while total > size * most and size < 2**26:
        size *= 2
    return size
