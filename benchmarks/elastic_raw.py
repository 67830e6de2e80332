"""Growth with nothing around it: the driver calls themselves, what elastic growth is measured against."""

from __future__ import annotations

import mmap
import os
import time
from importlib import import_module
from typing import Any

from farspan.kv.memory.drivers.host import _libc


def raw_growth(driver: str, size: int, count: int) -> float:
    """Return the seconds that creating and mapping `count` segments of `size` bytes takes in a reserved range."""
    return _raw_cuda(size, count) if driver == "cuda" else _raw_host(size, count)


def _raw_cuda(size: int, count: int) -> float:
    """Create, map and set access, a segment at a time; torch has made the context."""
    cuda: Any = import_module("cuda.bindings.driver")

    def call(result: tuple[Any, ...]) -> Any:
        if result[0]:
            raise RuntimeError(str(result[0]))
        return result[1] if len(result) > 1 else None

    properties, access = cuda.CUmemAllocationProp(), cuda.CUmemAccessDesc()
    properties.type = cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    access.flags = cuda.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    for location in (properties.location, access.location):
        location.type, location.id = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE, 0
    base = int(call(cuda.cuMemAddressReserve(size * count, 0, 0, 0)))
    handles = []
    start = time.perf_counter()
    for number in range(count):
        at = base + number * size
        handle = call(cuda.cuMemCreate(size, properties, 0))
        call(cuda.cuMemMap(at, size, 0, handle, 0))
        call(cuda.cuMemSetAccess(at, size, [access], 1))
        handles.append(handle)
    spent = time.perf_counter() - start
    for number, handle in enumerate(handles):
        call(cuda.cuMemUnmap(base + number * size, size))
        call(cuda.cuMemRelease(handle))
    call(cuda.cuMemAddressFree(base, size * count))
    return spent


def _raw_host(size: int, count: int) -> float:
    """Fallocate and mmap at a fixed address, a segment at a time."""
    libc = _libc()
    file = os.memfd_create("raw")
    base = libc.mmap(None, size * count, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, -1, 0)
    rights = mmap.PROT_READ | mmap.PROT_WRITE
    start = time.perf_counter()
    for number in range(count):
        if libc.fallocate(file, 0, number * size, size):
            raise MemoryError
        libc.mmap(base + number * size, size, rights, mmap.MAP_SHARED | 0x10, file, number * size)
    spent = time.perf_counter() - start
    libc.munmap(base, size * count)
    os.close(file)
    return spent
