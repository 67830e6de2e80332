"""A host driver of which any call can be made to fail, and a clock that tests move."""

from __future__ import annotations

from typing import Any

from farspan.errors import FarspanError
from farspan.kv.memory.drivers.driver import Handle, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FailingDriver(HostDriver):
    """Fails the call number `fail_at` (counted from 1 by `arm`) with `error`, once."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        super().__init__(limit_bytes)
        self._left = 0
        self._error: FarspanError = NoRoomError("injected")
        self.failed = False

    def arm(self, fail_at: int, error: FarspanError | None = None) -> None:
        self._left, self.failed = fail_at, False
        self._error = error or NoRoomError("injected")

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.failed = True
            raise self._error

    def _reserve(self, size: int) -> int:
        self._count()
        return super()._reserve(size)

    def _create(self, size: int) -> int:
        self._count()
        return super()._create(size)

    def _destroy(self, handle: Handle) -> None:
        self._count()
        super()._destroy(handle)

    def _map(self, address: int, size: int, key: Any) -> None:
        self._count()
        super()._map(address, size, key)

    def _unmap(self, address: int, size: int) -> None:
        self._count()
        super()._unmap(address, size)

    def _allow_access(self, address: int, size: int) -> None:
        self._count()
