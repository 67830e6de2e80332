"""A stand-in for `cuda.bindings.driver` that holds callers to the rules of the virtual memory calls.

Memory is real (a memfd an allocation), so contents can be checked through the addresses it gives out. What the real
driver refuses is refused with the same code; what it would let pass and this project must never do (releasing mapped
memory, unmapping what a kernel still uses, leaving access unset) raises AssertionError.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace

from farspan.kv.memory.drivers.host import _libc

GRANULE = 1 << 16
_PROT_NONE, _FIXED, _NORESERVE = 0, 0x10, 0x4000


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_READY = 600


class CUdevice_attribute(IntEnum):  # noqa: N801 - NVIDIA's names
    CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102


class CUmemAllocationType(IntEnum):
    CU_MEM_ALLOCATION_TYPE_PINNED = 1


class CUmemLocationType(IntEnum):
    CU_MEM_LOCATION_TYPE_DEVICE = 1


class CUmemAccess_flags(IntEnum):  # noqa: N801
    CU_MEM_ACCESS_FLAGS_PROT_READ = 1
    CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3


class CUmemAllocationGranularity_flags(IntEnum):  # noqa: N801
    CU_MEM_ALLOC_GRANULARITY_MINIMUM = 0


class CUevent_flags(IntEnum):  # noqa: N801
    CU_EVENT_DISABLE_TIMING = 2


@dataclass
class CUmemLocation:
    type: int = 0
    id: int = -1


@dataclass
class CUmemAllocationProp:
    type: int = 0
    location: CUmemLocation = field(default_factory=CUmemLocation)


@dataclass
class CUmemAccessDesc:
    flags: int = 0
    location: CUmemLocation = field(default_factory=CUmemLocation)


@dataclass
class _Mapping:
    size: int
    handle: int
    access: bool = False


class FakeCuda:
    """One GPU of `total` bytes. An instance is what `import cuda.bindings.driver` gives."""

    CUresult = CUresult
    CUdevice_attribute = CUdevice_attribute
    CUmemAllocationType = CUmemAllocationType
    CUmemLocationType = CUmemLocationType
    CUmemAccess_flags = CUmemAccess_flags
    CUmemAllocationGranularity_flags = CUmemAllocationGranularity_flags
    CUevent_flags = CUevent_flags
    CUmemAllocationProp = CUmemAllocationProp
    CUmemAccessDesc = CUmemAccessDesc

    def __init__(self, total: int = 64 * GRANULE, supported: int = 1) -> None:
        self.total = total
        self.supported = supported
        self.neighbour = 0  # bytes somebody else holds
        self.calls: list[str] = []
        self.fail: dict[str, CUresult] = {}  # name -> what its next call answers
        self.files: dict[int, tuple[int, int]] = {}  # handle -> (file, size)
        self.reserved: dict[int, int] = {}
        self.mappings: dict[int, _Mapping] = {}
        self.events: dict[int, int | None] = {}  # event -> work number it stands behind
        self.contexts = 0
        self._libc = _libc()
        self._initialised = False
        self._stack = threading.local()
        self._next = 1
        self._work = 0  # queued so far
        self._done = 0  # finished so far
        self._kernels: list[tuple[int, int, int]] = []  # (work number, address, size)

    # --- what tests do with it ---

    def launch(self, address: int, size: int) -> None:
        """Queue a kernel that uses [address, address + size)."""
        for granule in range(address, address + size, GRANULE):
            found = self._mapping_at(granule)
            assert found is not None, "a kernel touches memory that is not mapped"
            assert found.access, "a kernel touches memory without access"
        self._work += 1
        self._kernels.append((self._work, address, size))

    def finish(self) -> None:
        """Let everything queued end."""
        self._done = self._work
        self._kernels = []

    def check_clean(self) -> None:
        assert not self.files, "memory was released"
        assert not self.mappings, "everything was unmapped"
        assert not self.reserved, "address space was given back"
        assert not self.events, "events were destroyed"
        assert self.contexts == 0, "the primary context was released"

    # --- the calls ---

    def __getattribute__(self, name: str) -> object:
        found = object.__getattribute__(self, name)
        if name.startswith("cu"):
            self.calls.append(name)
            failure = self.fail.pop(name, None)
            if failure is not None:
                return lambda *_: (failure, None)
            if name != "cuInit" and not self._initialised:
                return lambda *_: (CUresult.CUDA_ERROR_NOT_INITIALIZED, None)
        return found

    def cuInit(self, flags: int) -> tuple[CUresult]:  # noqa: N802
        self._initialised = True
        return (CUresult(flags),)

    def cuDeviceGet(self, ordinal: int) -> tuple[CUresult, int]:  # noqa: N802
        return CUresult.CUDA_SUCCESS, ordinal

    def cuDeviceGetUuid(self, device: int) -> tuple[CUresult, SimpleNamespace]:  # noqa: N802
        return CUresult.CUDA_SUCCESS, SimpleNamespace(bytes=bytes(range(device, device + 16)))

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[CUresult, int]:  # noqa: N802
        assert attribute == 102
        return CUresult.CUDA_SUCCESS, self.supported

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[CUresult, str]:  # noqa: N802
        self.contexts += 1
        return CUresult.CUDA_SUCCESS, "primary"

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[CUresult]:  # noqa: N802
        self.contexts -= 1
        return (CUresult.CUDA_SUCCESS,)

    def cuCtxPushCurrent(self, context: str) -> tuple[CUresult]:  # noqa: N802
        self._contexts_here().append(context)
        return (CUresult.CUDA_SUCCESS,)

    def cuCtxPopCurrent(self) -> tuple[CUresult, str | None]:  # noqa: N802
        here = self._contexts_here()
        if not here:
            return CUresult.CUDA_ERROR_INVALID_CONTEXT, None
        return CUresult.CUDA_SUCCESS, here.pop()

    def cuMemGetAllocationGranularity(self, prop: CUmemAllocationProp, option: int) -> tuple[CUresult, int]:  # noqa: N802
        return (CUresult.CUDA_SUCCESS if self._right(prop) else CUresult.CUDA_ERROR_INVALID_VALUE), GRANULE

    def cuMemGetInfo(self) -> tuple[CUresult, int, int]:  # noqa: N802
        if not self._contexts_here():
            return CUresult.CUDA_ERROR_INVALID_CONTEXT, 0, 0
        return CUresult.CUDA_SUCCESS, self._free(), self.total

    def cuMemAddressReserve(  # noqa: N802
        self, size: int, alignment: int, address: int, flags: int
    ) -> tuple[CUresult, int]:
        if size <= 0 or size % GRANULE or alignment % GRANULE or address or flags:
            return CUresult.CUDA_ERROR_INVALID_VALUE, 0
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        found = int(self._libc.mmap(None, size + alignment, _PROT_NONE, flags, -1, 0))
        start = -(-found // GRANULE) * GRANULE
        self._libc.munmap(found, start - found)
        self._libc.munmap(start + size, found + alignment - start)
        self.reserved[start] = size
        return CUresult.CUDA_SUCCESS, start

    def cuMemAddressFree(self, address: int, size: int) -> tuple[CUresult]:  # noqa: N802
        if self.reserved.get(address) != size:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        assert not any(address <= at < address + size for at in self.mappings), "freed while mapped"
        del self.reserved[address]
        self._libc.munmap(address, size)
        return (CUresult.CUDA_SUCCESS,)

    def cuMemCreate(self, size: int, prop: CUmemAllocationProp, flags: int) -> tuple[CUresult, int]:  # noqa: N802
        if size <= 0 or size % GRANULE or flags or not self._right(prop):
            return CUresult.CUDA_ERROR_INVALID_VALUE, 0
        if size > self._free():
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY, 0
        file = os.memfd_create("fake-cuda")
        os.truncate(file, size)
        self._next += 1
        self.files[self._next] = (file, size)
        return CUresult.CUDA_SUCCESS, self._next

    def cuMemRelease(self, handle: int) -> tuple[CUresult]:  # noqa: N802
        if handle not in self.files:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        assert all(mapping.handle != handle for mapping in self.mappings.values()), "released while mapped"
        os.close(self.files.pop(handle)[0])
        return (CUresult.CUDA_SUCCESS,)

    def cuMemMap(self, address: int, size: int, offset: int, handle: int, flags: int) -> tuple[CUresult]:  # noqa: N802
        inside = any(
            base <= address and address + size <= base + extent for base, extent in self.reserved.items()
        )
        right = handle in self.files and self.files[handle][1] == size and not offset and not flags
        taken = any(at < address + size and address < at + one.size for at, one in self.mappings.items())
        if not inside or not right or taken or address % GRANULE or size % GRANULE:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        self._place(address, size, self.files[handle][0], _PROT_NONE)
        self.mappings[address] = _Mapping(size, handle)
        return (CUresult.CUDA_SUCCESS,)

    def cuMemSetAccess(  # noqa: N802
        self, address: int, size: int, access: list[CUmemAccessDesc], count: int
    ) -> tuple[CUresult]:
        right = (
            count == len(access) == 1
            and access[0].flags in (1, 3)
            and access[0].location == CUmemLocation(1, 0)
        )
        covered = [(at, one) for at, one in self.mappings.items() if address <= at < address + size]
        if not right or sum(one.size for _, one in covered) != size:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        for at, one in covered:
            # The flags are the system's own: 1 is PROT_READ, 3 is PROT_READ | PROT_WRITE.
            self._place(at, one.size, self.files[one.handle][0], access[0].flags)
            one.access = True
        return (CUresult.CUDA_SUCCESS,)

    def cuMemUnmap(self, address: int, size: int) -> tuple[CUresult]:  # noqa: N802
        if address not in self.mappings or self.mappings[address].size != size:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        for _, start, extent in self._kernels:
            assert not (start < address + size and address < start + extent), (
                "unmapped under a running kernel"
            )
        del self.mappings[address]
        self._place(address, size, -1, _PROT_NONE)
        return (CUresult.CUDA_SUCCESS,)

    def cuMemsetD8(self, address: int, value: int, count: int) -> tuple[CUresult]:  # noqa: N802
        found = self._mapping_at(address)
        if not self._contexts_here() or found is None or not found.access:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        ctypes.memset(address, value, count)
        return (CUresult.CUDA_SUCCESS,)

    def cuCtxSynchronize(self) -> tuple[CUresult]:  # noqa: N802
        self.finish()
        return (CUresult.CUDA_SUCCESS,)

    def cuEventCreate(self, flags: int) -> tuple[CUresult, int]:  # noqa: N802
        if not self._contexts_here():
            return CUresult.CUDA_ERROR_INVALID_CONTEXT, 0
        self._next += 1
        self.events[self._next] = None
        return CUresult.CUDA_SUCCESS, self._next

    def cuEventRecord(self, event: int, stream: int) -> tuple[CUresult]:  # noqa: N802
        if not self._contexts_here():
            return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        if event not in self.events:
            return (CUresult.CUDA_ERROR_INVALID_HANDLE,)
        self.events[event] = self._work
        return (CUresult.CUDA_SUCCESS,)

    def cuEventQuery(self, event: int) -> tuple[CUresult]:  # noqa: N802
        if event not in self.events:
            return (CUresult.CUDA_ERROR_INVALID_HANDLE,)
        behind = self.events[event]
        assert behind is not None, "an event is asked for that was never recorded"
        return (CUresult.CUDA_SUCCESS if behind <= self._done else CUresult.CUDA_ERROR_NOT_READY,)

    def cuEventDestroy(self, event: int) -> tuple[CUresult]:  # noqa: N802
        if not self._contexts_here():
            return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        if event not in self.events:
            return (CUresult.CUDA_ERROR_INVALID_HANDLE,)
        del self.events[event]
        return (CUresult.CUDA_SUCCESS,)

    # --- inside ---

    def _free(self) -> int:
        return self.total - self.neighbour - sum(size for _, size in self.files.values())

    def _contexts_here(self) -> list[str]:
        if not hasattr(self._stack, "contexts"):
            self._stack.contexts = []
        contexts: list[str] = self._stack.contexts
        return contexts

    def _right(self, prop: CUmemAllocationProp) -> bool:
        return prop.type == 1 and prop.location == CUmemLocation(1, 0)

    def _mapping_at(self, address: int) -> _Mapping | None:
        return next((one for at, one in self.mappings.items() if at <= address < at + one.size), None)

    def _place(self, address: int, size: int, file: int, protection: int) -> None:
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE if file < 0 else mmap.MAP_SHARED
        found = self._libc.mmap(address, size, protection, kind | _FIXED, file, 0)
        assert found == address, os.strerror(ctypes.get_errno())
