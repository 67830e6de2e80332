"""What this machine's GPUs do while a run goes on: memory, power and utilisation, through NVML."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any

from yarl import URL

from farspan.errors import InputError
from farspan.hardware.detect import open_nvml

MEMORY_USED = "memory_used_bytes"
MEMORY_TOTAL = "memory_total_bytes"
POWER = "power_w"
UTILISATION = "utilisation"  # share of the last sample period in which a kernel ran, 0 to 1


class GpuReader:
    """Reads every GPU of this machine. Close it when done.

    Args:
        nvml: An initialised `pynvml`.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]

    def read(self) -> dict[str, dict[str, float]]:
        """Read `gpu0`, `gpu1` and so on; a GPU or a figure the driver does not give is left out."""
        nvml = self._nvml
        readings: dict[str, dict[str, float]] = {}
        for index, handle in enumerate(self._handles):
            values: dict[str, float] = {}
            # Each figure alone: a card in MIG mode, say, has memory but no utilisation.
            with contextlib.suppress(nvml.NVMLError):
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                values |= {MEMORY_USED: float(memory.used), MEMORY_TOTAL: float(memory.total)}
            with contextlib.suppress(nvml.NVMLError):
                values[POWER] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
            with contextlib.suppress(nvml.NVMLError):
                values[UTILISATION] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            if values:
                readings[f"gpu{index}"] = values
        return readings

    def close(self) -> None:
        """Let go of the driver."""
        self._nvml.nvmlShutdown()


def open_gpus() -> GpuReader | None:
    """Return a reader of this machine's GPUs, or None where there is no NVML, no driver or no GPU."""
    try:
        nvml = open_nvml()
    except InputError:
        return None
    try:
        if nvml.nvmlDeviceGetCount():
            return GpuReader(nvml)
    except nvml.NVMLError:
        pass
    nvml.nvmlShutdown()
    return None


def is_here(url: str) -> bool:
    """Tell whether a server's address is this machine's, so that the GPUs here may be the ones it uses."""
    host = URL(url).host or ""
    try:
        address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
        if ipaddress.ip_address(address).is_loopback:
            return True
        family = socket.AF_INET6 if ":" in str(address) else socket.AF_INET
        # Only an address of this machine can be bound to.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True
