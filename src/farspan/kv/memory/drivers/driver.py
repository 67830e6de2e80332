"""Address space reserved once, physical memory mapped into it and taken out again: what a driver must do.

The base class keeps count and enforces the rules, so that every driver refuses the same mistakes; a driver
supplies the six calls underneath. Addresses are plain integers.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from farspan.errors import FarspanError, KVError
from farspan.sizes import format_bytes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class NoRoomError(KVError):
    """The device, or the share of it that may be used, has no memory left. Nothing has changed."""


class DriverError(KVError):
    """A driver was asked for something it must not do, or the device refused for a reason other than memory."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a device now, in bytes, as the driver can get it."""

    free: int
    total: int


@dataclass(slots=True, eq=False)
class Handle:
    """A piece of physical memory.

    Attributes:
        size: Bytes.
        key: What the driver calls it (a file offset, a CUDA handle).
        address: Where it is mapped; None when it is not.
        alive: False once it was destroyed.
    """

    size: int
    key: Any
    address: int | None = None
    alive: bool = True


class Fence(ABC):
    """A point in the device's queue."""

    @abstractmethod
    def done(self) -> bool:
        """Return whether everything queued on the device before the fence was made has ended."""


class PassedFence(Fence):
    """A fence that was never in the way: of a device without a queue."""

    def done(self) -> bool:
        """Return True."""
        return True


class Driver(ABC):
    """Memory of one device. Creating and destroying is safe from any thread; the rest belongs to one thread.

    Whoever makes a driver closes it, after everything that lives on it. A closed driver refuses every call with
    DriverError, for what was mapped is gone and its addresses may be somebody else's by then.

    Attributes:
        name: `host` or `cuda`.
        granularity: Sizes and addresses are multiples of this many bytes.
        touchable: The processor can read and write the memory: `numpy` works.
    """

    name: str
    touchable = False
    granularity: int

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ranges: dict[int, int] = {}  # address -> size
        self._starts: list[int] = []  # addresses of the ranges, ascending
        self._mapped: dict[int, Handle] = {}  # address -> what is mapped there
        self._mapped_starts: dict[int, list[int]] = {}  # range -> addresses mapped in it, ascending
        self._handles: set[Handle] = set()
        self._zeros: dict[
            int, dict[int, int]
        ] = {}  # range -> address of a piece that reads as zero -> its size
        self._closed = False

    # --- address space -----------------------------------------------------------------------------------------

    def reserve(self, size: int) -> int:
        """Reserve `size` bytes of address space; touching them faults until they are backed.

        Raises:
            NoRoomError: There is no address space left.
        """
        self.check_open()
        self._check_size(size)
        address = self._reserve(size)
        self._ranges[address] = size
        self._starts.insert(bisect_right(self._starts, address), address)
        self._mapped_starts[address] = []
        return address

    def release(self, address: int, size: int) -> None:
        """Give a reserved range back; nothing may be mapped in it."""
        self.check_open()
        if self._ranges.get(address) != size:
            raise DriverError(f"no range of {size} bytes was reserved at {address:#x}")
        if self._mapped_starts[address]:
            raise DriverError(f"the range at {address:#x} still has memory mapped in it", "unmap it first")
        for at, piece in list(self._zeros.get(address, {}).items()):
            self.unmap_zeros(at, piece)
        self._release(address, size)
        self._zeros.pop(address, None)
        del self._ranges[address], self._mapped_starts[address]
        self._starts.remove(address)

    # --- physical memory ---------------------------------------------------------------------------------------

    def create(self, size: int) -> Handle:
        """Take `size` bytes of physical memory from the device.

        Raises:
            NoRoomError: The device has none left.
        """
        handles: list[Handle] = []
        self.create_into(handles, size, 1)
        return handles[0]

    def create_into(self, handles: list[Handle], size: int, count: int) -> None:
        """Take `size` bytes of physical memory `count` times, and append each piece to `handles`.

        Raises:
            NoRoomError: The device has none left. What could be created is in `handles`.
        """
        self.check_open()
        self._check_size(size)
        with self._ready():
            for _ in range(count):
                handle = Handle(size, self._create(size))
                with self._lock:
                    self._handles.add(handle)
                handles.append(handle)

    def destroy(self, handle: Handle) -> None:
        """Give physical memory back to the device; it must not be mapped."""
        self.check_open()
        if handle.address is not None or not handle.alive:
            state = "mapped" if handle.alive else "destroyed already"
            raise DriverError(f"memory that is {state} cannot be destroyed")
        self._destroy(handle)
        handle.alive = False
        with self._lock:
            self._handles.discard(handle)

    # --- mapping -----------------------------------------------------------------------------------------------

    def map(self, address: int, handle: Handle) -> None:
        """Back the addresses from `address` on with `handle`; see `map_run`."""
        self.map_run(address, (handle,))

    def map_run(self, address: int, handles: Sequence[Handle]) -> None:
        """Back the addresses from `address` on with `handles`, one after the other; all or none.

        When the device fails to undo a part, that part stays mapped: its handles have an address after the error.

        Raises:
            DriverError: An address is outside a reserved range or mapped already, or a handle is mapped elsewhere.
            NoRoomError: The device has no memory for its own tables.
        """
        self.check_open()
        size = sum(handle.size for handle in handles)
        starts = self._check_unmapped(address, size)
        for handle in handles:
            if handle.address is not None or not handle.alive:
                state = "mapped already" if handle.alive else "destroyed"
                raise DriverError(f"memory that is {state} cannot be mapped")
        done: list[tuple[int, Handle]] = []
        at = address
        try:
            for handle in handles:
                self._map(at, handle.size, handle.key)
                done.append((at, handle))
                at += handle.size
            self._allow_access(address, size)
        except FarspanError:
            done = self._undo_map(done)
            raise
        finally:
            for at, handle in done:
                handle.address = at
                self._mapped[at] = handle
            place = bisect_right(starts, address)
            starts[place:place] = [at for at, _ in done]

    def unmap(self, address: int, size: int) -> Handle:
        """Take away the memory mapped at exactly [address, address + size) and return it; the range stays reserved."""
        self.check_open()
        handle = self._mapped.get(address)
        if handle is None or handle.size != size:
            raise DriverError(f"no memory of {size} bytes is mapped at {address:#x}")
        self._unmap(address, size)
        handle.address = None
        del self._mapped[address]
        starts = self._mapped_starts[self._range_of(address)]
        del starts[bisect_right(starts, address) - 1]
        return handle

    # --- addresses that read as zero ---------------------------------------------------------------------------

    def map_zeros(self, address: int, piece: int, count: int = 1) -> None:
        """Make `count` pieces of `piece` bytes from `address` on read as zero; writing there faults. All or none.

        One piece of memory stands behind all. `unmap_zeros` takes one away before other memory is mapped there.

        Raises:
            DriverError: An address is outside a reserved range, or something is there already.
            NoRoomError: The device has no memory for its own tables.
        """
        self.check_open()
        self._check_size(piece)
        self._check_unmapped(address, piece * count)
        self._map_zeros(address, piece, count)
        zeros = self._zeros.setdefault(self._range_of(address), {})
        zeros.update(dict.fromkeys(range(address, address + piece * count, piece), piece))

    def unmap_zeros(self, address: int, piece: int) -> None:
        """Take away one piece that reads as zero. Nothing queued may still read it."""
        if (zeros := self._zeros.get(self._range_of(address), {})).get(address) != piece:
            raise DriverError(f"no {piece} bytes that read as zero were mapped at {address:#x}")
        self._unmap(address, piece)
        del zeros[address]

    # --- looking at it -----------------------------------------------------------------------------------------

    @abstractmethod
    def memory(self) -> Memory:
        """Return the device's memory, read anew."""

    @abstractmethod
    def physical_bytes(self) -> int:
        """Return the physical bytes of this driver's handles, as exactly as the device can tell."""

    @abstractmethod
    def fence(self) -> Fence:
        """Return a fence behind everything queued on the device so far."""

    @abstractmethod
    def tensor(self, address: int, size: int) -> torch.Tensor:
        """Return uint8 [size] over [address, address + size), of which the first bytes must be mapped."""

    def numpy(self, address: int, size: int) -> NDArray[np.uint8]:
        """Return uint8 [size] over [address, address + size), on a driver whose memory the processor can touch."""
        raise DriverError(
            f"the {size} bytes at {address:#x} are memory of the {self.name} driver and have no numpy view",
            "use tensor() instead",
        )

    def check_open(self) -> None:
        """Raise DriverError when the driver is closed."""
        if self._closed:
            raise DriverError(
                f"the {self.name} driver is closed", "close it after the caches and pools that use it"
            )

    @property
    def live_handles(self) -> int:
        """Handles created and not destroyed."""
        return len(self._handles)

    @property
    def mapped_bytes(self) -> int:
        """Bytes mapped now, all ranges together."""
        return sum(handle.size for handle in self._mapped.values())

    @property
    def reserved_bytes(self) -> int:
        """Bytes of address space reserved now."""
        return sum(self._ranges.values())

    def close(self) -> None:
        """Give back everything, mapped or not. Views must not be used afterwards; closing twice does nothing."""
        if self._closed:
            return
        for address, handle in list(self._mapped.items()):
            self.unmap(address, handle.size)
        for address, size in list(self._ranges.items()):
            self.release(address, size)
        for handle in list(self._handles):
            self.destroy(handle)
        self._closed = True
        self._shut()

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        for address, handle in self._mapped.items():
            assert handle.alive, "mapped memory is alive"
            assert handle.address == address, "a handle knows where it is mapped"
            assert handle in self._handles, "mapped memory is counted"
        flat = [at for starts in self._mapped_starts.values() for at in starts]
        assert sorted(flat) == sorted(self._mapped), "every mapping belongs to one range"
        for base, starts in self._mapped_starts.items():
            stop = base
            for at in starts:
                assert at >= stop, "no two mappings overlap"
                stop = at + self._mapped[at].size
            assert stop <= base + self._ranges[base], "mappings stay inside their range"

    # --- what a driver supplies --------------------------------------------------------------------------------

    def _ready(self) -> AbstractContextManager[None]:
        """Return what must be entered around `_create`, once for as many calls as follow."""
        return nullcontext()

    @abstractmethod
    def _reserve(self, size: int) -> int: ...

    @abstractmethod
    def _release(self, address: int, size: int) -> None: ...

    @abstractmethod
    def _create(self, size: int) -> Any: ...

    @abstractmethod
    def _destroy(self, handle: Handle) -> None: ...

    @abstractmethod
    def _map(self, address: int, size: int, key: Any) -> None: ...

    @abstractmethod
    def _unmap(self, address: int, size: int) -> None: ...

    @abstractmethod
    def _map_zeros(self, address: int, piece: int, count: int) -> None: ...

    @abstractmethod
    def _allow_access(self, address: int, size: int) -> None: ...

    @abstractmethod
    def _shut(self) -> None: ...

    def _undo_map(self, done: list[tuple[int, Handle]]) -> list[tuple[int, Handle]]:
        """Unmap what was mapped before a failure; return what the device would not unmap, which stays mapped."""
        left = []
        for at, handle in done:
            try:
                self._unmap(at, handle.size)
            except FarspanError:
                left.append((at, handle))
        return left

    # --- checks ------------------------------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        if size <= 0 or size % self.granularity:
            raise DriverError(
                f"{size} bytes is not a positive multiple of {format_bytes(self.granularity)}",
                "round it up to the driver's granularity",
            )

    def _range_of(self, address: int) -> int:
        place = bisect_right(self._starts, address) - 1
        if place < 0 or address >= self._starts[place] + self._ranges[self._starts[place]]:
            raise DriverError(f"{address:#x} is in no reserved range")
        return self._starts[place]

    def _check_unmapped(self, address: int, size: int) -> list[int]:
        """Return the addresses mapped in the range of [address, address + size), none of them inside it."""
        base = self._range_of(address)
        if size <= 0 or (address - base) % self.granularity or address + size > base + self._ranges[base]:
            raise DriverError(f"[{address:#x}, +{size}) is not an aligned part of the range at {base:#x}")
        starts = self._mapped_starts[base]
        place = bisect_right(starts, address)
        before = place and starts[place - 1] + self._mapped[starts[place - 1]].size > address
        after = place < len(starts) and starts[place] < address + size
        zeros = self._zeros.get(base, {})
        piece = next(
            iter(zeros.values()), size
        )  # a range has pieces of one size, whole ones from its start on
        begin = address - (address - base) % piece
        if before or after or any(at in zeros for at in range(begin, address + size, piece)):
            raise DriverError(f"part of [{address:#x}, +{size}) is mapped already", "unmap it first")
        return starts
