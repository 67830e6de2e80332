"""Elastic memory of the host: a memfd for the physical bytes, mmap for the addresses.

It keeps the rules a GPU imposes, and shows what a GPU hides: touching an address that is not backed is a segmentation
fault, and the physical bytes are exact, by the blocks of the file. libc is called through ctypes because Python's own
mmap cannot place a mapping at an address.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan.kv.memory.drivers.driver import (
    Driver,
    DriverError,
    Fence,
    Handle,
    Memory,
    NoRoomError,
    PassedFence,
)
from farspan.sizes import format_bytes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# Constants of Linux that the standard library does not export.
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_FALLOC_KEEP_SIZE = 0x01
_FALLOC_PUNCH_HOLE = 0x02
_MAP_FAILED = ctypes.c_void_p(-1).value

_PROT_NONE = 0
_PASSED = PassedFence()


class HostDriver(Driver):
    """Memory of this machine.

    Args:
        limit_bytes: The most physical memory to take; None for what the machine and its cgroup have.
        alignment: The granularity; None for the page size. It is a multiple of the page size.
    """

    name = "host"
    touchable = True

    def __init__(self, limit_bytes: int | None = None, alignment: int | None = None) -> None:
        super().__init__()
        self.granularity = mmap.PAGESIZE if alignment is None else alignment
        if self.granularity <= 0 or self.granularity % mmap.PAGESIZE:
            raise DriverError(f"an alignment of {alignment} bytes is not a multiple of {mmap.PAGESIZE}")
        self._limit = limit_bytes
        self._libc = _libc()
        self._file = os.memfd_create("farspan-kv", os.MFD_CLOEXEC)
        self._file_lock = threading.Lock()
        self._file_size = 0
        self._free = 0
        self._free_until = 0.0
        self._holes: dict[int, list[int]] = {}  # size -> offsets whose memory was given back

    def memory(self) -> Memory:
        """See `Driver.memory`: MemAvailable, within the memory limit of the cgroup and `limit_bytes`."""
        self.check_open()
        memory = _host_memory()
        if self._limit is None:
            return memory
        return Memory(
            min(memory.free, max(0, self._limit - self.physical_bytes())), min(memory.total, self._limit)
        )

    def physical_bytes(self) -> int:
        """See `Driver.physical_bytes`: the blocks of the file, exact."""
        self.check_open()
        return os.fstat(self._file).st_blocks * 512

    def fence(self) -> Fence:
        """See `Driver.fence`: the host has no queue."""
        self.check_open()
        return _PASSED

    def numpy(self, address: int, size: int) -> NDArray[np.uint8]:
        """See `Driver.numpy`."""
        self.check_open()
        import numpy as np

        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def tensor(self, address: int, size: int) -> torch.Tensor:
        """See `Driver.tensor`."""
        self.check_open()
        import torch

        return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=torch.uint8)

    def _reserve(self, size: int) -> int:
        # One granule more than asked, so that an aligned address fits in; the ends are given back.
        extra = self.granularity - mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        found = self._libc.mmap(None, size + extra, _PROT_NONE, flags, -1, 0)
        if found == _MAP_FAILED:
            raise NoRoomError(f"no {format_bytes(size)} of address space: {_reason()}", "lower the cap")
        address = -(-found // self.granularity) * self.granularity
        if address > found:
            self._libc.munmap(found, address - found)
        if address + size < found + size + extra:
            self._libc.munmap(address + size, found + extra - address)
        return int(address)

    def _release(self, address: int, size: int) -> None:
        if self._libc.munmap(address, size):
            raise DriverError(f"munmap of {format_bytes(size)} failed: {_reason()}")

    def _create(self, size: int) -> int:
        with self._file_lock:
            self._check_free(size)
            holes = self._holes.get(size)
            if holes:
                offset = holes.pop()
            else:
                offset = self._file_size
                self._file_size += size
        if self._libc.fallocate(self._file, 0, offset, size):
            code = ctypes.get_errno()
            self._give_back(offset, size)
            if code in (errno.ENOMEM, errno.ENOSPC):
                raise NoRoomError(f"the host has no {format_bytes(size)} left: {os.strerror(code)}")
            raise DriverError(f"fallocate of {format_bytes(size)} failed: {os.strerror(code)}")
        return offset

    def _check_free(self, size: int) -> None:
        """Refuse what the kernel would not refuse: it would end the process instead.

        Reading /proc takes 0.3 ms, so what was free is read again only after 20 ms, or when it would not do.
        """
        now = time.monotonic()
        if now > self._free_until or size > self._free:
            self._free, self._free_until = self.memory().free, now + 0.02
        if size > self._free:
            raise NoRoomError(
                f"{format_bytes(size)} asked for and {format_bytes(self._free)} free on the host"
            )
        self._free -= size

    def _destroy(self, handle: Handle) -> None:
        if not self._give_back(handle.key, handle.size):
            raise DriverError(f"punching a hole of {format_bytes(handle.size)} failed: {_reason()}")

    def _give_back(self, offset: int, size: int) -> bool:
        failed = self._libc.fallocate(self._file, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, size)
        if not failed:
            with self._file_lock:
                self._holes.setdefault(size, []).append(offset)
        return not failed

    def _map(self, address: int, size: int, key: int) -> None:
        flags = mmap.MAP_SHARED | _MAP_FIXED
        self._mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, self._file, key)

    def _unmap(self, address: int, size: int) -> None:
        # Not munmap: the addresses must stay ours.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
        self._mmap(address, size, _PROT_NONE, flags, -1, 0)

    def _map_zeros(self, address: int, piece: int, count: int) -> None:
        # The kernel has a page of zeros of its own.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
        self._mmap(address, piece * count, mmap.PROT_READ, flags, -1, 0)

    def _mmap(self, address: int, size: int, protection: int, flags: int, file: int, offset: int) -> None:
        if self._libc.mmap(address, size, protection, flags, file, offset) == _MAP_FAILED:
            code = ctypes.get_errno()
            if code == errno.ENOMEM:  # too many mappings: /proc/sys/vm/max_map_count
                raise NoRoomError("the host allows no more mappings", "use larger segments")
            raise DriverError(f"mmap of {format_bytes(size)} failed: {os.strerror(code)}")

    def _allow_access(self, address: int, size: int) -> None:
        """Do nothing: mapping gave access."""

    def _shut(self) -> None:
        os.close(self._file)


def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    word, offset = ctypes.c_size_t, ctypes.c_long
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, word, ctypes.c_int, ctypes.c_int, ctypes.c_int, offset]
    libc.munmap.argtypes = [ctypes.c_void_p, word]
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, offset, offset]
    return libc


def _reason() -> str:
    return os.strerror(ctypes.get_errno())


def _host_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Return what this process can get: the kernel's MemAvailable, within every cgroup v2 limit above it."""
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text("ascii").splitlines())
    free, total = (int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    for folder in _cgroup_folders(proc, cgroups):
        try:
            limit = (folder / "memory.max").read_text("ascii").strip()
            used = int((folder / "memory.current").read_text("ascii"))
        except OSError:
            continue
        if limit != "max":
            free, total = min(free, max(0, int(limit) - used)), min(total, int(limit))
    return Memory(free, total)


def _cgroup_folders(proc: Path, cgroups: Path) -> list[Path]:
    try:
        lines = (proc / "self" / "cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        if line.startswith("0::/"):
            inner = cgroups / line[4:]
            return [folder for folder in (inner, *inner.parents) if folder.is_relative_to(cgroups)]
    return []
