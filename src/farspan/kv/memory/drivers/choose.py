"""Which driver a device's memory has, and what the device is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farspan.kv.memory.drivers.driver import Driver

if TYPE_CHECKING:
    import torch


def open_driver(device: torch.device) -> Driver:
    """Return the driver of a device's memory.

    Raises:
        InputError: The device has none, or a package it needs is missing.
    """
    if device.type == "cuda":
        from farspan.kv.memory.drivers.cuda import CudaDriver

        return CudaDriver(device.index or 0)
    from farspan.kv.memory.drivers.host import HostDriver

    return HostDriver()


def device_id(driver: Driver) -> str:
    """Return what a driver's device is called, the same in every process that uses it."""
    uuid: str = getattr(driver, "uuid", driver.name)
    return uuid
