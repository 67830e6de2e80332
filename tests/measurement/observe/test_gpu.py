"""GPU readings through a stand-in for the driver's library, found and used as the real one is."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from farspan.measurement.observe.gpu_sampler import (
    MEMORY_TOTAL,
    MEMORY_USED,
    POWER,
    UTILISATION,
    is_here,
    open_gpus,
)


class FakeNvml(types.ModuleType):
    """What of `pynvml` is used, with two GPUs; the second tells no utilisation."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, gpus: int = 2, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.gpus, self.driver, self.open = gpus, driver, 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return types.SimpleNamespace(used=(handle + 1) * 2**30, total=80 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return 350_500

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle == 1:
            raise self.NVMLError("Not Supported")
        return types.SimpleNamespace(gpu=97)


def test_memory_power_and_utilisation_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    reader = open_gpus()
    assert reader is not None
    assert reader.read() == {
        "gpu0": {MEMORY_USED: 2.0**30, MEMORY_TOTAL: 80 * 2.0**30, POWER: 350.5, UTILISATION: 0.97},
        "gpu1": {MEMORY_USED: 2.0**31, MEMORY_TOTAL: 80 * 2.0**30, POWER: 350.5},
    }
    reader.close()
    assert nvml.open == 0


@pytest.mark.parametrize("nvml", [None, FakeNvml(driver=False), FakeNvml(gpus=0)])
def test_without_library_driver_or_gpu_there_is_silently_none(
    nvml: FakeNvml | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    assert open_gpus() is None
    assert capsys.readouterr() == ("", "")
    assert nvml is None or nvml.open == 0


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:1", True),
        ("http://localhost:80", True),
        ("http://192.0.2.1", False),
    ],
)
def test_only_this_machines_gpus_are_taken_for_the_servers(url: str, here: bool) -> None:
    assert is_here(url) is here
