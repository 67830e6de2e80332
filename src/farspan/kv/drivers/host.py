"""Elastic host memory: memfd pages mapped into reserved addresses.

Each handle is a piece of one memfd. Reserved addresses are PROT_NONE, so that a stale read or write faults at once
instead of reading another sequence's keys, and destroyed pieces are punched out of the file, which gives their pages
back to the kernel. Physical bytes are what the kernel says the file occupies. Linux only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from bisect import bisect_left, insort
from pathlib import Path
from typing import TYPE_CHECKING

from farspan.errors import InputError
from farspan.kv.drivers.driver import Driver, Fence, Handle, Memory, NoRoomError

if TYPE_CHECKING:
    import torch

# linux/mman.h and linux/falloc.h; Python's mmap module has no MAP_FIXED and no PROT_NONE.
_PROT_NONE = 0
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_FAILED = ctypes.c_void_p(-1).value


class _Past(Fence):
    """Host memory has no queue: everything before now has ended."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        return


class HostDriver(Driver):
    """Elastic memory of the host.

    Args:
        limit_bytes: The most physical memory it creates; None for what the machine has.

    Raises:
        InputError: The system is not Linux.
    """

    name = "host"

    def __init__(self, limit_bytes: int | None = None) -> None:
        if not sys.platform.startswith("linux"):
            raise InputError("elastic host memory needs Linux", "run the built-in engine on Linux")
        self.granularity = mmap.PAGESIZE
        self._limit = limit_bytes
        self._libc = _libc()
        self._file = os.memfd_create("farspan-kv", os.MFD_CLOEXEC)
        self._handles: dict[int, int] = {}  # offset in the file (the handle's number) to size
        self._holes: list[tuple[int, int]] = []  # (offset, size) free inside the file, by offset, never adjacent
        self._end = 0
        self._ranges: dict[int, int] = {}
        self._mapped: list[tuple[int, int]] = []  # (address, size), by address

    def reserve(self, size: int) -> int:
        """See `Driver.reserve`."""
        self._check_size(size)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        address = self._mmap(None, size, _PROT_NONE, flags, -1, 0)
        self._ranges[address] = size
        return address

    def release(self, address: int, size: int) -> None:
        """See `Driver.release`."""
        assert self._ranges.get(address) == size, "this range was not reserved"
        assert not self._overlap(address, size), "something is still mapped in the range"
        if self._libc.munmap(address, size):
            raise OSError(ctypes.get_errno(), "munmap")
        del self._ranges[address]

    def create(self, size: int) -> Handle:
        """See `Driver.create`."""
        self._check_size(size)
        if self._limit is not None and sum(self._handles.values()) + size > self._limit:
            raise NoRoomError(f"host memory is limited to {self._limit} bytes", "raise the limit")
        offset = self._place(size)
        try:
            # Pages are taken now, not at the first write: no room is an error here and not a SIGBUS there.
            if self._libc.fallocate(self._file, 0, offset, size):
                code = ctypes.get_errno()
                raise NoRoomError(f"the host has no memory left ({os.strerror(code)})", "free some host memory")
        except BaseException:
            self._punch(offset, size)
            self._give_place(offset, size)
            raise
        self._handles[offset] = size
        return Handle(offset, size)

    def destroy(self, handle: Handle) -> None:
        """See `Driver.destroy`."""
        assert self._handles.get(handle.number) == handle.size, "this memory is not the driver's, or is gone"
        self._punch(handle.number, handle.size)
        del self._handles[handle.number]
        self._give_place(handle.number, handle.size)

    def map(self, address: int, handle: Handle) -> None:
        """See `Driver.map`."""
        assert self._handles.get(handle.number) == handle.size, "this memory is not the driver's, or is gone"
        assert any(
            start <= address and address + handle.size <= start + size for start, size in self._ranges.items()
        ), "the address was not reserved"
        assert not self._overlap(address, handle.size), "something is mapped there already"
        self._mmap(
            address,
            handle.size,
            mmap.PROT_READ | mmap.PROT_WRITE,
            mmap.MAP_SHARED | _MAP_FIXED,
            self._file,
            handle.number,
        )
        insort(self._mapped, (address, handle.size))

    def unmap(self, address: int, size: int) -> None:
        """See `Driver.unmap`."""
        index = bisect_left(self._mapped, (address, size))
        assert self._mapped[index : index + 1] == [(address, size)], "nothing was mapped there in one piece"
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
        self._mmap(address, size, _PROT_NONE, flags, -1, 0)
        del self._mapped[index]

    def memory(self) -> Memory:
        """See `Driver.memory`: what can be had without swapping, as Linux estimates it."""
        free, total = _available()
        if self._limit is not None:
            free = min(free, self._limit - sum(self._handles.values()))
            total = min(total, self._limit)
        return Memory(max(0, free), total)

    def physical_bytes(self) -> int:
        """See `Driver.physical_bytes`: what the kernel says the memfd occupies."""
        return os.fstat(self._file).st_blocks * 512

    def fence(self) -> Fence:
        """See `Driver.fence`."""
        return _Past()

    def tensor(self, address: int, size: int) -> torch.Tensor:
        """See `Driver.tensor`."""
        import torch

        return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=torch.uint8)

    def close(self) -> None:
        """See `Driver.close`."""
        if self._file < 0:
            return
        self._mapped.clear()
        for address, size in list(self._ranges.items()):
            self._libc.munmap(address, size)
        self._ranges.clear()
        self._handles.clear()
        os.close(self._file)
        self._file = -1

    def _check_size(self, size: int) -> None:
        assert size > 0 and size % self.granularity == 0, f"{size} is not a multiple of {self.granularity}"

    def _overlap(self, address: int, size: int) -> bool:
        index = bisect_left(self._mapped, (address, 0))
        after = index < len(self._mapped) and self._mapped[index][0] < address + size
        before = index > 0 and sum(self._mapped[index - 1]) > address
        return after or before

    def _place(self, size: int) -> int:
        """Return where in the file new memory goes: the first hole that is large enough, else the end."""
        for index, (offset, room) in enumerate(self._holes):
            if room >= size:
                rest = [(offset + size, room - size)] if room > size else []
                self._holes[index : index + 1] = rest
                return offset
        offset = self._end
        os.ftruncate(self._file, offset + size)
        self._end = offset + size
        return offset

    def _give_place(self, offset: int, size: int) -> None:
        index = bisect_left(self._holes, (offset, size))
        if index < len(self._holes) and self._holes[index][0] == offset + size:
            size += self._holes.pop(index)[1]
        if index > 0 and sum(self._holes[index - 1]) == offset:
            index -= 1
            earlier = self._holes.pop(index)
            offset, size = earlier[0], earlier[1] + size
        self._holes.insert(index, (offset, size))

    def _punch(self, offset: int, size: int) -> None:
        if self._libc.fallocate(self._file, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, size):
            raise OSError(ctypes.get_errno(), "fallocate(PUNCH_HOLE)")

    def _mmap(
        self, address: int | None, size: int, protection: int, flags: int, file: int, offset: int
    ) -> int:
        found = self._libc.mmap(address, size, protection, flags, file, offset)
        if found == _FAILED or found is None:
            code = ctypes.get_errno()
            raise NoRoomError(
                f"the system refuses to map {size} bytes ({os.strerror(code)})",
                "raise vm.max_map_count or use larger segments",
            )
        return int(found)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    size, offset, number, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p
    libc.mmap.restype = pointer
    libc.mmap.argtypes = [pointer, size, number, number, number, offset]
    libc.munmap.argtypes = [pointer, size]
    libc.fallocate.argtypes = [number, number, offset, offset]
    return libc


def _available() -> tuple[int, int]:
    """Return the bytes that can be had, and all there are; a control group's limit counts."""
    fields: dict[str, int] = {}
    with Path("/proc/meminfo").open(encoding="ascii") as file:
        for line in file:
            name, value = line.split(":", 1)
            fields[name] = int(value.split()[0]) * 1024
    free, total = fields["MemAvailable"], fields["MemTotal"]
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
            free, total = min(free, int(limit) - used), min(total, int(limit))
    except (OSError, ValueError):
        pass  # no control group, or one without a limit
    return free, total
