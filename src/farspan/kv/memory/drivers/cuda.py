"""Elastic memory of an NVIDIA GPU: the driver's virtual memory calls through cuda-bindings; no compiler is needed.

It works in the device's primary context, the one torch uses, so tensors over a range are torch's own kind. What the
driver may refuse is turned into two errors: no memory is `NoRoomError`, anything else `DriverError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from farspan.errors import FarspanError, install_command
from farspan.kv.memory.drivers.driver import Driver, DriverError, Fence, Handle, Memory, NoRoomError
from farspan.sizes import format_bytes

if TYPE_CHECKING:
    import torch

Streams = Callable[[], Sequence[int]]
"""Returns the handles of the CUDA streams whose queued work may touch the memory."""


class CudaDriver(Driver):
    """Memory of one GPU.

    Args:
        device: Its number, as torch counts.
        streams: The streams a fence stands behind; None for torch's current one.
    """

    name = "cuda"

    def __init__(self, device: int = 0, streams: Streams | None = None) -> None:
        super().__init__()
        try:
            self._api: Any = import_module("cuda.bindings.driver")
        except ImportError as error:
            raise DriverError("cuda-bindings is not installed", install_command("cuda")) from error
        self.device = device
        self._streams = streams or self._current_stream
        try:
            self._call("cuInit", 0)
        except RuntimeError as error:  # cuda-bindings found no libcuda
            raise DriverError(f"there is no NVIDIA driver here ({error})", "use the host driver") from error
        self._events: list[Any] = []  # to be used again
        self._number = self._call("cuDeviceGet", device)
        attribute = self._api.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        if not self._call("cuDeviceGetAttribute", attribute, self._number):
            raise DriverError(f"GPU {device} has no virtual memory management", "use the host driver")
        self._context = self._call("cuDevicePrimaryCtxRetain", self._number)
        self._properties, self._access = self._describe()
        self._zero_pieces: dict[int, Handle] = {}  # size -> physical memory full of zeros
        minimum = self._api.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self.granularity = int(self._call("cuMemGetAllocationGranularity", self._properties, minimum))

    @property
    def uuid(self) -> str:
        """The device's UUID, as nvidia-smi shows it; of a MIG slice its own."""
        found = bytes(self._call("cuDeviceGetUuid", self._number).bytes).hex()
        return "GPU-" + "-".join((found[:8], found[8:12], found[12:16], found[16:20], found[20:]))

    def memory(self) -> Memory:
        """See `Driver.memory`: what the device says is free, whoever took the rest."""
        self.check_open()
        with self._in_context():
            free, total = self._call("cuMemGetInfo")
        return Memory(int(free), int(total))

    def physical_bytes(self) -> int:
        """See `Driver.physical_bytes`: the sizes of the handles, which is what the device gives out."""
        self.check_open()
        with self._lock:
            return sum(handle.size for handle in self._handles)

    def fence(self) -> Fence:
        """See `Driver.fence`: an event on each of the driver's streams."""
        self.check_open()
        fence = _CudaFence(self)
        with self._in_context():
            for stream in self._streams():
                fence.waiting.append(self._event())
                self._call("cuEventRecord", fence.waiting[-1], stream)
        return fence

    def tensor(self, address: int, size: int) -> torch.Tensor:
        """See `Driver.tensor`. Torch asks the device whose memory it is, so the first bytes must be mapped."""
        self.check_open()
        import torch

        return torch.as_tensor(_Memory(address, size), device=torch.device("cuda", self.device))

    # --- the calls -----------------------------------------------------------------------------------------------

    def _reserve(self, size: int) -> int:
        return int(self._call("cuMemAddressReserve", size, self.granularity, 0, 0))

    def _release(self, address: int, size: int) -> None:
        self._call("cuMemAddressFree", address, size)

    def _ready(self) -> AbstractContextManager[None]:
        return self._in_context()  # a thread of ours has none

    def _create(self, size: int) -> Any:
        return self._call("cuMemCreate", size, self._properties, 0)

    def _destroy(self, handle: Handle) -> None:
        self._call("cuMemRelease", handle.key)

    def _map(self, address: int, size: int, key: Any) -> None:
        self._call("cuMemMap", address, size, 0, key, 0)

    def _unmap(self, address: int, size: int) -> None:
        self._call("cuMemUnmap", address, size)

    def _map_zeros(self, address: int, piece: int, count: int) -> None:
        key = self._zero_piece(piece, address).key
        done = 0
        try:
            for _ in range(count):
                self._call("cuMemMap", address + done * piece, piece, 0, key, 0)
                done += 1
            self._call("cuMemSetAccess", address, piece * count, [self._reading], 1)
        except FarspanError:
            for index in range(done):
                self._call("cuMemUnmap", address + index * piece, piece)
            raise

    def _zero_piece(self, piece: int, address: int) -> Handle:
        """Return memory full of zeros, made when first asked for; `address`, not mapped yet, is written through."""
        if piece not in self._zero_pieces:
            handle = self.create(piece)
            try:
                with self._in_context():
                    self._call("cuMemMap", address, piece, 0, handle.key, 0)
                    try:
                        self._call("cuMemSetAccess", address, piece, [self._access], 1)
                        self._call("cuMemsetD8", address, 0, piece)
                        self._call("cuCtxSynchronize")
                    finally:
                        self._call("cuMemUnmap", address, piece)
            except FarspanError:
                self.destroy(handle)
                raise
            self._zero_pieces[piece] = handle
        return self._zero_pieces[piece]

    def _allow_access(self, address: int, size: int) -> None:
        # One call for all that was just mapped: it is the dearest of the three.
        self._call("cuMemSetAccess", address, size, [self._access], 1)

    def _shut(self) -> None:
        with self._in_context():
            while self._events:
                self._call("cuEventDestroy", self._events.pop())
        self._call("cuDevicePrimaryCtxRelease", self._number)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the driver; return its result, a tuple when there are several, None when there is none."""
        error, *results = getattr(self._api, name)(*arguments)
        if error:
            self._refuse(name, error, arguments)
        return results[0] if len(results) == 1 else tuple(results) or None

    def _refuse(self, name: str, error: Any, arguments: tuple[Any, ...]) -> None:
        codes = self._api.CUresult
        if error == codes.CUDA_ERROR_OUT_OF_MEMORY:
            sized = {"cuMemCreate": 0, "cuMemAddressReserve": 0, "cuMemMap": 1, "cuMemSetAccess": 1}
            what = f" of {format_bytes(arguments[sized[name]])}" if name in sized else ""
            raise NoRoomError(f"GPU {self.device} has no room: {name}{what} failed")
        raise DriverError(f"{name} on GPU {self.device} failed: {getattr(error, 'name', error)}")

    @contextmanager
    def _in_context(self) -> Iterator[None]:
        """Make the primary context current, and then again whatever was: torch may be on another GPU."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def _describe(self) -> tuple[Any, Any]:
        """Return the properties of memory to create and the access to give to it."""
        api = self._api
        properties = api.CUmemAllocationProp()
        properties.type = api.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        access = api.CUmemAccessDesc()
        access.flags = api.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        self._reading = api.CUmemAccessDesc()
        self._reading.flags = api.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READ
        for location in (properties.location, access.location, self._reading.location):
            location.type = api.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
            location.id = self.device
        return properties, access

    def _current_stream(self) -> Sequence[int]:
        import torch

        return (int(torch.cuda.current_stream(self.device).cuda_stream),)

    # --- events --------------------------------------------------------------------------------------------------

    def _event(self) -> Any:
        if self._events:
            return self._events.pop()
        return self._call("cuEventCreate", self._api.CUevent_flags.CU_EVENT_DISABLE_TIMING)

    def _passed(self, event: Any) -> bool:
        """Return whether the event has happened; if so it is kept for another fence."""
        error = self._api.cuEventQuery(event)[0]
        if error == self._api.CUresult.CUDA_ERROR_NOT_READY:
            return False
        if error:
            self._refuse("cuEventQuery", error, (event,))
        self._events.append(event)
        return True


class _CudaFence(Fence):
    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self.waiting: list[Any] = []

    def done(self) -> bool:
        """See `Fence.done`."""
        while self.waiting and self._driver._passed(self.waiting[-1]):
            self.waiting.pop()
        return not self.waiting

    def __del__(self) -> None:
        # A fence nobody waits for any more gives its events back too; recording one again is allowed at any time.
        self._driver._events += self.waiting


class _Memory:
    """Device memory as torch takes it: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }
