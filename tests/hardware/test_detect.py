from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from farspan.errors import InputError, install_command
from farspan.hardware import detect
from farspan.hardware.gpu import Origin
from farspan.hardware.node_spelling import parse_node


class FakeNvml:
    """NVML as an H200 answered it (driver 580.159)."""

    nvmlMemory_v2 = 2  # noqa: N815 - NVML's own name

    def __init__(
        self, products: list[str], total: int = 150_754_820_096, reserved: int = 644_939_776
    ) -> None:
        self.products = products
        self.memory = SimpleNamespace(total=total, reserved=reserved)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.products)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return self.products[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int) -> SimpleNamespace:  # noqa: N802
        assert version == self.nvmlMemory_v2
        return self.memory


def test_detected_memory_is_torchs_total() -> None:
    node = detect.detect_node(FakeNvml(["NVIDIA H200"] * 8))
    assert (node.gpu.name, node.count) == ("H200", 8)
    assert node.gpu.memory_bytes == 150_109_880_320
    assert node.gpu.memory_origin is Origin.MEASURED


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
    ],
)
def test_product_names(product: str, name: str) -> None:
    assert detect.product_gpu(product).name == name


def test_unknown_mixed_and_missing_gpus_are_refused() -> None:
    with pytest.raises(InputError, match="not a GPU farspan knows"):
        detect.detect_node(FakeNvml(["NVIDIA Tesla K80"]))
    with pytest.raises(InputError, match="different kinds"):
        detect.detect_node(FakeNvml(["NVIDIA H200", "NVIDIA H100 80GB HBM3"]))
    with pytest.raises(InputError, match="reports no GPU"):
        detect.detect_node(FakeNvml([]))


def test_without_nvidia_ml_py_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(InputError, match=re.escape(install_command("cuda"))):
        parse_node("detect")


def test_without_a_driver_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def fail() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    fake = SimpleNamespace(NVMLError=NVMLError, nvmlInit=fail)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    with pytest.raises(InputError, match="driver cannot be asked") as caught:
        parse_node("detect")
    assert "\n" not in str(caught.value)


def test_host_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       131981020 kB\nMemFree: 1 kB\n")
    assert detect.host_memory_bytes(meminfo) == 131_981_020 * 1024
    assert detect.host_memory_bytes(tmp_path / "none") is None


def test_gpus_are_found_without_the_nvml_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor i in 1 2; do echo 'NVIDIA H200, 143771, 615'; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    node = parse_node("detect")
    assert (node.gpu.name, node.count) == ("H200", 2)
    assert node.gpu.memory_bytes == (143771 - 615) * 2**20
    assert abs(node.gpu.memory_bytes - 150_109_880_320) < 2**20  # what torch reports, less than a MiB off


def test_a_driver_program_that_fails_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert detect.list_by_nvidia_smi() == []
