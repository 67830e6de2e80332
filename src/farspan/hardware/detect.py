"""This machine's GPUs, asked of the NVIDIA driver through NVML; no CUDA context is made."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from farspan.errors import InputError, MissingPackageError, NotFoundError, install_command
from farspan.hardware.catalog import find_gpu
from farspan.hardware.gpu import Gpu, Node, Origin

# Product names hold more than the catalog's: "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB".
_PRODUCTS = (
    (r"\bGB300\b", "GB300"),
    (r"\bGB200\b", "GB200"),
    (r"\bGB10\b", "GB10"),
    (r"\bB300\b", "B300"),
    (r"\bB200\b", "B200"),
    (r"\bGH200\b.*\b144", "GH200-144GB"),
    (r"\bGH200\b", "GH200"),
    (r"\bH200\b", "H200"),
    (r"\bH800\b", "H800"),
    (r"\bH100 NVL\b", "H100-NVL"),
    (r"\bH100 PCIe\b", "H100-PCIe"),
    (r"\bH100\b", "H100"),
    (r"\bH20-3e\b", "H20-141GB"),
    (r"\bH20\b", "H20"),
    (r"\bA800\b", "A800-80GB"),
    (r"\bA100\b.*\b80GB\b", "A100-80GB"),
    (r"\bA100\b.*\b40GB\b", "A100-40GB"),
    (r"\bV100\b.*\b32GB\b", "V100-32GB"),
    (r"\bV100\b.*\b16GB\b", "V100-16GB"),
    (r"\bL40S\b", "L40S"),
    (r"\bRTX PRO (6000|5000|4500|4000)\b", r"RTX-PRO-\1"),
    (r"\bRTX (6000|5000) Ada\b", r"RTX-\1-Ada"),
    (r"\b(A6000|A5000|A4000|A10G|A10|A30|A40|L40|L20|L4|T4)\b", r"\1"),
    (r"\bRTX ((?:3090|4070|4080|4090|5070|5080|5090)(?: Ti)?(?: SUPER)?(?: D)?)\b", r"RTX-\1"),
    (r"\bRTX (4060|5060) Ti\b", r"RTX-\1-Ti-16GB"),
    (r"\bRTX (2080 Ti|3060|3070|3080|4060)\b(?! Ti)", r"RTX-\1"),
)


def product_gpu(product: str) -> Gpu:
    """The catalog's GPU for a product name as the driver spells it.

    Raises:
        NotFoundError: The catalog has no such card.
    """
    for pattern, name in _PRODUCTS:
        match = re.search(pattern, product)
        if match is not None:
            return find_gpu(match.expand(name))
    raise NotFoundError(
        f"{product!r} is not a GPU farspan knows", "name a similar one, such as --gpus 8xH100"
    )


def open_nvml() -> Any:
    """Initialise the NVIDIA driver's library and return it (`pynvml`); the caller shuts it down.

    Raises:
        MissingPackageError: nvidia-ml-py is not installed.
        NotFoundError: There is no driver.
    """
    try:
        pynvml = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        raise MissingPackageError(
            "detecting GPUs needs nvidia-ml-py, which is not installed",
            f"run {install_command('cuda')}, or name the GPUs as in --gpus 8xH200; --gpus none serves on a CPU",
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NotFoundError(
            f"the NVIDIA driver cannot be asked for its GPUs ({error})",
            "run this on the GPU machine, or name the GPUs as in --gpus 8xH200; --gpus none serves on a CPU",
        ) from None
    return pynvml


def host_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """RAM of this machine, or None where the system does not say."""
    try:
        match = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo.read_text("ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(match.group(1)) * 1024 if match else None


def detect_node(nvml: Any = None) -> Node:
    """This machine's GPUs. Memory is the driver's total less what it reserves, which is what CUDA sees
    (measured on H100 and H200: equal to the byte).

    Args:
        nvml: An initialised `pynvml`; imported and initialised when None.

    Raises:
        NotFoundError: No driver, no GPU, or a kind the catalog lacks.
        InputError: The GPUs are of different kinds.
    """
    own = nvml is None
    try:
        nvml = open_nvml() if own else nvml
    except MissingPackageError:
        listed = list_by_nvidia_smi()
        if not listed:
            raise
        return _node(listed)
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        names = [nvml.nvmlDeviceGetName(handle) for handle in handles]
        totals = []
        for handle in handles:
            info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
            totals.append(info.total - info.reserved)
    finally:
        if own:
            nvml.nvmlShutdown()
    return _node(list(zip(names, totals, strict=True)))


def list_by_nvidia_smi() -> list[tuple[str, int]]:
    """Product and bytes of each GPU as the driver's own program tells them, without any Python package; rounded down to
    a MiB. Empty where there is no such program, or it fails."""
    try:
        done = subprocess.run(
            [
                "nvidia-smi",
                "--query-gpu=name,memory.total,memory.reserved",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        rows = [line.rsplit(",", 2) for line in done.stdout.splitlines() if line.strip()]
        return [(name.strip(), (int(total) - int(reserved)) * 2**20) for name, total, reserved in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _node(found: Sequence[tuple[str, int]]) -> Node:
    """The node of GPUs by product and bytes, which must be of one kind."""
    names = [name for name, _ in found]
    if not found:
        raise NotFoundError(
            "the NVIDIA driver reports no GPU",
            "name the GPUs as in --gpus 8xH200; --gpus none serves on a CPU",
        )
    if len(set(names)) > 1:
        kinds = ", ".join(sorted(set(names)))
        raise InputError(f"this machine has GPUs of different kinds ({kinds})", "name the ones to plan for")
    gpu = replace(
        product_gpu(names[0]), memory_bytes=min(total for _, total in found), memory_origin=Origin.MEASURED
    )
    return Node(gpu, len(found), host_memory_bytes())
