"""Request-to-page tables in elastic memory: [max_rows, max_pages] reserved, backed as rows are written.

Engines allocate this table for as many requests as could ever run, each at the full context: 76 GiB for 2048 requests
of 10M tokens. Here a row costs what it holds.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from farspan.errors import InputError
from farspan.kv.memory.backing import Backing, SegmentSpan
from farspan.kv.memory.drivers.driver import DriverError
from farspan.kv.memory.segments import SegmentPool

if TYPE_CHECKING:
    import torch

_ENTRY = 4  # bytes of a page id


class RequestTable:
    """Rows of int32 page ids. Not safe to share between threads.

    Args:
        segments: Where the memory comes from.
        max_rows: Rows there can ever be.
        max_pages: Page ids a row can hold.
    """

    def __init__(self, segments: SegmentPool, max_rows: int, max_pages: int) -> None:
        if max_rows <= 0 or max_pages <= 0:
            raise InputError("a request table needs at least one row and one page")
        self._pool = segments
        self.max_rows = max_rows
        self.max_pages = max_pages
        self._backing = Backing(segments, [max_rows * max_pages * _ENTRY])
        self._lengths = np.zeros(max_rows, np.int64)
        self._held: dict[int, int] = {}  # row -> segment after the last that is backed for it
        self._unused: list[
            int
        ] = []  # rows given back, a heap: the lowest goes first, so that rows share segments
        self._next = 0
        self._view: torch.Tensor | None = None
        self._first_held = False
        segments.register(self._backing)

    @property
    def rows(self) -> int:
        """Rows in use."""
        return len(self._held)

    @property
    def mapped_bytes(self) -> int:
        """Physical bytes mapped for the table now."""
        return self._backing.mapped_bytes

    def alloc_row(self) -> int | None:
        """Return the lowest unused row, empty, or None when all are in use. It costs no memory yet."""
        if self._unused:
            row = heapq.heappop(self._unused)
        elif self._next < self.max_rows:
            row = self._next
            self._next += 1
        else:
            return None
        self._held[row] = self._first_segment(row)
        self._lengths[row] = 0
        return row

    def free_row(self, row: int) -> None:
        """Give a row back; its memory goes after the quiet time unless another row shares it."""
        self._check_row(row)
        start = self._first_segment(row)
        if self._held[row] > start:
            self._backing.release([SegmentSpan(0, start, self._held[row])])
        del self._held[row]
        self._lengths[row] = 0
        heapq.heappush(self._unused, row)

    def length(self, row: int) -> int:
        """Return the page ids a row holds."""
        self._check_row(row)
        return int(self._lengths[row])

    def append(self, row: int, pages: NDArray[np.int32]) -> None:
        """Write page ids at the end of a row; nothing has changed when this raises.

        Raises:
            DriverError: The row is not in use or would outgrow `max_pages`.
            NoRoomError: There is no memory for it.
        """
        self.write(row, self.length(row), pages)

    def write(self, row: int, start: int, pages: NDArray[np.int32]) -> None:
        """Write page ids at [start, start + len(pages)) of a row, at most one behind its end; see `append`."""
        self._check_row(row)
        stop = start + len(pages)
        if not 0 <= start <= int(self._lengths[row]) or stop > self.max_pages:
            raise DriverError(
                f"[{start}, {stop}) of a row of {int(self._lengths[row])} page ids, {self.max_pages} at most"
            )
        if start == stop:
            return
        last = -(-((row * self.max_pages + stop) * _ENTRY) // self._pool.segment_bytes)
        if last > self._held[row]:
            self._backing.hold([SegmentSpan(0, self._held[row], last)])
            self._held[row] = last
        self._write(row, start, pages)
        self._lengths[row] = max(int(self._lengths[row]), stop)

    def truncate(self, row: int, length: int) -> None:
        """Forget the page ids of a row from `length` on; memory that only they used goes after the quiet time."""
        self._check_row(row)
        if not 0 <= length <= int(self._lengths[row]):
            raise DriverError(f"a row of {int(self._lengths[row])} page ids cannot be cut to {length}")
        self._lengths[row] = length
        start = self._first_segment(row)
        last = -(-((row * self.max_pages + length) * _ENTRY) // self._pool.segment_bytes) if length else start
        if last < self._held[row]:
            self._backing.release([SegmentSpan(0, last, self._held[row])])
            self._held[row] = last

    def row(self, row: int) -> torch.Tensor:
        """Return int32 [length] over the page ids of a row, as a view."""
        return self.tensor()[row, : self.length(row)]

    def tensor(self) -> torch.Tensor:
        """Return int32 [max_rows, max_pages] over the whole table; only what was written may be touched.

        From the first call on the first segment stays backed.

        Raises:
            NoRoomError: There is no memory for the first segment.
        """
        if self._view is None:
            import torch

            self._keep_first()
            self._view = self._backing.ranges[0].tensor(torch.int32, (self.max_rows, self.max_pages))
        return self._view

    def numpy(self) -> NDArray[np.int32]:
        """Return the same as `tensor` for numpy, where the processor can touch the memory."""
        return self._backing.ranges[0].numpy(np.int32, (self.max_rows, self.max_pages))

    def tick(self) -> None:
        """Let go of memory that no row has used for the quiet time; call it between steps, then the pool's `tick`."""
        self._backing.tick()

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        self._backing.check_integrity()
        one = self._backing.ranges[0]
        for row, last in self._held.items():
            assert all(one.mapped(index) for index in range(self._first_segment(row), last)), (
                "rows have memory"
            )
            needed = (row * self.max_pages + int(self._lengths[row])) * _ENTRY
            assert not self._lengths[row] or needed <= last * self._pool.segment_bytes, (
                "all of a row has memory"
            )
        assert sorted([*self._held, *self._unused]) == list(range(self._next)), "a row is in use or is not"

    def close(self) -> None:
        """Give all memory back; views must not be used afterwards. Closing twice does nothing."""
        if self._backing.ranges:
            self._pool.unregister(self._backing)
            self._backing.close()
            self._view = None

    def _write(self, row: int, start: int, pages: NDArray[np.int32]) -> None:
        if self._pool.driver.touchable:
            self.numpy()[row, start : start + len(pages)] = pages
        else:
            import torch

            # A copy: torch takes no read-only arrays, and page ids often are.
            values = torch.from_numpy(np.array(pages, np.int32))
            self.tensor()[row, start : start + len(pages)].copy_(values)

    def _keep_first(self) -> None:
        if not self._first_held:
            self._backing.hold([SegmentSpan(0, 0, 1)])
            self._first_held = True

    def _first_segment(self, row: int) -> int:
        return row * self.max_pages * _ENTRY // self._pool.segment_bytes

    def _check_row(self, row: int) -> None:
        if row not in self._held:
            raise DriverError(f"row {row} is not in use")
