"""What a driver of elastic memory does: addresses apart from the memory behind them.

A range of addresses is reserved once and never moves. Physical memory is created by the handle and mapped into a
range, and unmapped and destroyed later; touching an address with nothing behind it is an error of the device (on the
host a segmentation fault), never another tensor's bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from farspan.kv.interface import NoRoomError

if TYPE_CHECKING:
    import torch

__all__ = ["Driver", "Fence", "Handle", "Memory", "NoRoomError"]


@dataclass(frozen=True, slots=True)
class Handle:
    """Physical memory: the driver's own number for it, and its size in bytes."""

    number: int
    size: int


@dataclass(frozen=True, slots=True)
class Memory:
    """A device's memory in bytes, as it is now."""

    free: int
    total: int


class Fence(Protocol):
    """A mark in the device's queue of work."""

    def done(self) -> bool:
        """Whether everything queued before the mark has ended."""

    def wait(self) -> None:
        """Wait until it has."""


class Driver(ABC):
    """Elastic memory of one device. `create`, `destroy` and `memory` may be called from any thread.

    Attributes:
        name: For messages and tables.
        granularity: Sizes and offsets are multiples of this many bytes.
    """

    name: str
    granularity: int

    @abstractmethod
    def reserve(self, size: int) -> int:
        """Return the address of `size` bytes of addresses with nothing behind them."""

    @abstractmethod
    def release(self, address: int, size: int) -> None:
        """Give a reserved range back; nothing may be mapped in it."""

    @abstractmethod
    def create(self, size: int) -> Handle:
        """Return new physical memory.

        Raises:
            NoRoomError: The device has none left.
        """

    @abstractmethod
    def destroy(self, handle: Handle) -> None:
        """Give physical memory back; it must not be mapped."""

    @abstractmethod
    def map(self, address: int, handle: Handle) -> None:
        """Put physical memory behind [address, address + handle.size), where nothing may be mapped yet.

        Raises:
            NoRoomError: The device has no memory left for its own tables.
        """

    @abstractmethod
    def unmap(self, address: int, size: int) -> None:
        """Take away what one `map` put there; the physical memory stays with its handle."""

    @abstractmethod
    def memory(self) -> Memory:
        """Return the device's memory, read anew."""

    @abstractmethod
    def physical_bytes(self) -> int:
        """Return the physical memory of this driver's handles."""

    @abstractmethod
    def fence(self) -> Fence:
        """Mark the device's queue of work as it is now."""

    @abstractmethod
    def tensor(self, address: int, size: int) -> torch.Tensor:
        """Return a reserved range as a tensor, uint8 [size]; its first bytes must be mapped."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back that is not yet; the driver is not used afterwards."""
