"""Address space backed segment by segment: what tensors of the cache live in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from farspan.errors import FarspanError
from farspan.kv.memory.drivers.driver import DriverError, Handle

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from farspan.kv.memory.segments import SegmentPool


class SegmentedRange:
    """Address space that segments are mapped into and taken out of. An address in it never changes.

    Args:
        pool: Whose segments back it.
        size: Bytes; rounded up to whole segments.
    """

    def __init__(self, pool: SegmentPool, size: int) -> None:
        self._pool = pool
        self._driver = pool.driver
        self._segment = pool.segment_bytes
        self.segments = -(-size // pool.segment_bytes)
        self.size = self.segments * pool.segment_bytes
        self.address = self._driver.reserve(self.size)
        self._handles: dict[int, Handle] = {}
        self._closed = False

    @property
    def mapped_segments(self) -> int:
        """Segments that are backed now."""
        return len(self._handles)

    def mapped(self, index: int) -> bool:
        """Return whether segment `index` is backed."""
        return index in self._handles

    def map_segment(self, index: int, handle: Handle) -> None:
        """Back segment `index`; it must not be backed."""
        self.map_segments(index, (handle,))

    def map_segments(self, start: int, handles: Sequence[Handle]) -> None:
        """Back the segments from `start` on, one each; all or none.

        Raises:
            DriverError: A segment is outside the range or backed already.
            NoRoomError: The device has no memory for its own tables. What the device would not undo is backed.
        """
        if start < 0 or start + len(handles) > self.segments:
            raise DriverError(f"segments [{start}, {start + len(handles)}) of a range of {self.segments}")
        try:
            self._driver.map_run(self._address_of(start), handles)
        except FarspanError:
            for index, handle in enumerate(handles, start):
                if handle.address == self._address_of(index):
                    self._handles[index] = handle
            raise
        self._handles.update(zip(range(start, start + len(handles)), handles, strict=True))

    def unmap_segment(self, index: int) -> Handle:
        """Take the segment's memory away and return it. Nothing queued on the device may still touch it."""
        if index not in self._handles:
            raise DriverError(f"segment {index} is not backed")
        handle = self._driver.unmap(self._address_of(index), self._segment)
        del self._handles[index]
        return handle

    def tensor(self, dtype: torch.dtype | None = None, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """Return the range, or the start of it that `shape` needs, as a tensor; uint8 [size] unless told otherwise.

        Only backed parts may be touched. On CUDA the first segment must be backed when this is called.
        """
        import torch

        dtype = torch.uint8 if dtype is None else dtype
        shape = (self.size // dtype.itemsize,) if shape is None else shape
        view = self._driver.tensor(self.address, self._bytes(shape, dtype.itemsize))
        return view.view(dtype).view(shape)

    def numpy(self, dtype: Any = None, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Return the same as `tensor` for numpy, where the processor can touch the memory."""
        import numpy as np

        dtype = np.dtype(np.uint8 if dtype is None else dtype)
        shape = (self.size // dtype.itemsize,) if shape is None else shape
        view: NDArray[Any] = self._driver.numpy(self.address, self._bytes(shape, dtype.itemsize))
        typed: NDArray[Any] = view.view(dtype).reshape(shape)
        return typed

    def close(self) -> None:
        """Give every segment to the pool and the address space back; views must not be used afterwards."""
        if self._closed:
            return
        for index in list(self._handles):
            self._pool.give([self.unmap_segment(index)])
        self._driver.release(self.address, self.size)
        self._closed = True

    def _address_of(self, index: int) -> int:
        return self.address + index * self._segment

    def _bytes(self, shape: tuple[int, ...], itemsize: int) -> int:
        size = itemsize
        for extent in shape:
            size *= extent
        if not 0 < size <= self.size:
            raise DriverError(f"a view of {size} bytes over a range of {self.size}")
        return size


class ZeroBackedRange(SegmentedRange):
    """A range of which every address can be read: zero where no segment is, and in a segment that nobody wrote yet.

    What is read past the end of its data, as kernels do that gather a rectangle of rows, needs this. Writing where no
    segment is faults.

    Args:
        pool: Whose segments back it.
        size: Bytes; rounded up to whole segments.
        wait: Returns when nothing queued on the device touches the range any more; called around every exchange.
    """

    def __init__(self, pool: SegmentPool, size: int, wait: Callable[[], None]) -> None:
        super().__init__(pool, size)
        self._wait = wait
        try:
            self._driver.map_zeros(self.address, self._segment, self.segments)
        except FarspanError:
            self._driver.release(self.address, self.size)
            raise

    def map_segments(self, start: int, handles: Sequence[Handle]) -> None:
        """See `SegmentedRange.map_segments`; the segments are zero."""
        indices = [index for index in range(start, start + len(handles)) if not self.mapped(index)]
        if start < 0 or start + len(handles) > self.segments or len(indices) < len(handles):
            super().map_segments(start, handles)  # which refuses it
        self._wait()
        taken_away: list[int] = []
        try:
            for index in indices:
                self._driver.unmap_zeros(self._address_of(index), self._segment)
                taken_away.append(index)
            super().map_segments(start, handles)
        except FarspanError:
            for index in taken_away:
                if not self.mapped(index):
                    self._read_as_zero(index)
            raise
        self._fill_with_zeros(start, len(handles))
        self._wait()

    def unmap_segment(self, index: int) -> Handle:
        """See `SegmentedRange.unmap_segment`; the segment reads as zero from now on."""
        self._wait()
        handle = super().unmap_segment(index)
        self._read_as_zero(index)
        return handle

    def _read_as_zero(self, index: int) -> None:
        self._driver.map_zeros(self._address_of(index), self._segment)

    def _fill_with_zeros(self, start: int, count: int) -> None:
        address, size = self._address_of(start), count * self._segment
        if self._driver.touchable:
            self._driver.numpy(address, size).fill(0)
        else:
            self._driver.tensor(address, size).zero_()
