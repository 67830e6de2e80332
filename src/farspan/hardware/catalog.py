"""The GPUs farspan knows.

Bandwidth, rates and links are the vendors' data sheets, dense (no sparsity). Memory is what torch reports,
which is less than the sticker and less than nvidia-smi: measured (to the byte); or as torch's out-of-memory
messages on such cards round it ("total capacity of 178.35 GiB"), the smallest where drivers differ; or assumed: as a
sibling of the same memory reports, else 0.97 to 0.99 of the sticker as such siblings do. B300 and GB300: 0.991 of 270
and 279, as B200 and GB200 report of 180 and 186. RTX PRO rates: the sheet's FP4 figure divided as PRO 6000's.
Public messages: H100-NVL ali-vilab/VACE#56; GH200 vllm-project/vllm#9630; RTX-6000-Ada (ECC on)
DINGYANB/MTVCrafter#21; RTX-5090 TrajectoryCrafter/TrajectoryCrafter#20; RTX-3090 vllm-project/vllm#14447;
RTX-4090 sgl-project/sglang#12496 (23.52, a new driver) and ali-vilab/VGen#104 (23.64); RTX-PRO-6000
antirez/ds4#431. B200, GB200, MI300X (191.69 or 191.98), L40S (44.39 or 44.40), A6000 (47.40 to 47.54), L4
(22.03 to 22.15) and A100 in many logs.
"""

from __future__ import annotations

import re
from dataclasses import replace

from farspan.errors import InputError, NotFoundError
from farspan.hardware.gpu import Gpu, Origin
from farspan.sizes import GIB

_T, _GB = 1e12, 1e9


def _gpu(
    name: str,
    gib: float,
    origin: Origin,
    bandwidth_tb: float,
    bf16_tflops: float,
    fp8_tflops: float,
    link: str,
    link_gb: float,
    capability: tuple[int, int] = (0, 0),
) -> Gpu:
    return Gpu(
        name=name,
        memory_bytes=round(gib * GIB),
        memory_origin=origin,
        bandwidth=bandwidth_tb * _T,
        bf16_flops=bf16_tflops * _T,
        fp8_flops=fp8_tflops * _T,
        link=link,
        link_bandwidth=link_gb * _GB,
        capability=capability,
    )


_M, _R, _A = Origin.MEASURED, Origin.REPORTED, Origin.ASSUMED
_GPUS = (
    _gpu("H200", 150_109_880_320 / GIB, _M, 4.8, 989, 1979, "NVLink", 900, (9, 0)),
    _gpu("H100", 85_017_493_504 / GIB, _M, 3.35, 989, 1979, "NVLink", 900, (9, 0)),
    _gpu("H100-PCIe", 79.18, _R, 2.0, 756, 1513, "PCIe", 128, (9, 0)),
    _gpu("H100-NVL", 93.0, _R, 3.9, 835, 1671, "NVLink", 600, (9, 0)),
    _gpu("H20", 95.0, _A, 4.0, 148, 296, "NVLink", 900, (9, 0)),
    _gpu("GH200", 94.5, _R, 4.0, 989, 1979, "NVLink", 900, (9, 0)),
    _gpu("A100-80GB", 79.14, _R, 2.039, 312, 0, "NVLink", 600, (8, 0)),
    _gpu("A100-40GB", 39.49, _R, 1.555, 312, 0, "NVLink", 600, (8, 0)),
    _gpu("B200", 178.35, _R, 8.0, 2250, 4500, "NVLink", 1800, (10, 0)),
    _gpu("GB200", 184.31, _R, 8.0, 2500, 5000, "NVLink", 1800, (10, 0)),
    _gpu("MI300X", 191.69, _R, 5.3, 1307, 2615, "Infinity Fabric", 896),
    _gpu("L40S", 44.39, _R, 0.864, 362, 733, "PCIe", 64, (8, 9)),
    _gpu("L4", 22.03, _R, 0.3, 121, 242, "PCIe", 64, (8, 9)),
    _gpu("RTX-PRO-6000", 94.97, _R, 1.792, 504, 1007, "PCIe", 128, (12, 0)),
    _gpu("RTX-6000-Ada", 44.43, _R, 0.96, 364, 728, "PCIe", 64, (8, 9)),
    _gpu("A6000", 47.4, _R, 0.768, 155, 0, "PCIe", 64, (8, 6)),
    _gpu("RTX-5090", 31.36, _R, 1.792, 210, 419, "PCIe", 128, (12, 0)),
    _gpu("RTX-4090", 23.52, _R, 1.008, 165, 330, "PCIe", 64, (8, 9)),
    # Data centre
    _gpu("H800", 79.18, _A, 3.35, 989, 1979, "NVLink", 400, (9, 0)),
    _gpu("H20-141GB", 139.8, _A, 4.8, 148, 296, "NVLink", 900, (9, 0)),
    _gpu("GH200-144GB", 142.0, _A, 4.9, 989, 1979, "NVLink", 900, (9, 0)),
    _gpu("A800-80GB", 79.14, _A, 2.039, 312, 0, "NVLink", 400, (8, 0)),
    _gpu("B300", 267.5, _A, 8.0, 2250, 4500, "NVLink", 1800, (10, 3)),
    _gpu("GB300", 276.4, _A, 8.0, 2500, 5000, "NVLink", 1800, (10, 3)),
    _gpu("GB10", 119.6, _A, 0.273, 125, 250, "PCIe", 50, (12, 1)),
    _gpu("A10", 22.05, _A, 0.6, 125, 0, "PCIe", 64, (8, 6)),
    _gpu("A10G", 22.05, _A, 0.6, 70, 0, "PCIe", 64, (8, 6)),
    _gpu("A30", 23.5, _A, 0.933, 165, 0, "PCIe", 64, (8, 0)),
    _gpu("A40", 44.34, _A, 0.696, 150, 0, "PCIe", 64, (8, 6)),
    _gpu("L40", 44.39, _A, 0.864, 181, 362, "PCIe", 64, (8, 9)),
    _gpu("L20", 44.39, _A, 0.864, 119, 239, "PCIe", 64, (8, 9)),
    _gpu("T4", 14.56, _A, 0.32, 65, 0, "PCIe", 32, (7, 5)),
    _gpu("V100-32GB", 31.73, _A, 0.9, 125, 0, "NVLink", 300, (7, 0)),
    _gpu("V100-16GB", 15.77, _A, 0.9, 125, 0, "NVLink", 300, (7, 0)),
    # AMD; a MI250X is two GPUs, and this is one of them
    _gpu("MI250X", 63.98, _A, 1.638, 191, 0, "Infinity Fabric", 400),
    _gpu("MI308X", 191.69, _A, 5.3, 188, 376, "Infinity Fabric", 896),
    _gpu("MI325X", 255.6, _A, 6.0, 1307, 2615, "Infinity Fabric", 896),
    _gpu("MI350X", 287.6, _A, 8.0, 2300, 4600, "Infinity Fabric", 1075),
    _gpu("MI355X", 287.6, _A, 8.0, 2500, 5000, "Infinity Fabric", 1075),
    # Workstation
    _gpu("RTX-PRO-5000", 47.2, _A, 1.344, 258, 516, "PCIe", 128, (12, 0)),
    _gpu("RTX-PRO-4500", 31.3, _A, 0.896, 211, 422, "PCIe", 128, (12, 0)),
    _gpu("RTX-PRO-4000", 23.4, _A, 0.672, 161, 322, "PCIe", 128, (12, 0)),
    _gpu("RTX-5000-Ada", 31.3, _A, 0.576, 130, 261, "PCIe", 64, (8, 9)),
    _gpu("A5000", 23.5, _A, 0.768, 111, 0, "PCIe", 64, (8, 6)),
    _gpu("A4000", 15.6, _A, 0.448, 77, 0, "PCIe", 64, (8, 6)),
    # GeForce; rates with float32 accumulation
    _gpu("RTX-3090", 23.58, _R, 0.936, 71, 0, "PCIe", 64, (8, 6)),
    _gpu("RTX-3090-Ti", 23.58, _A, 1.008, 80, 0, "PCIe", 64, (8, 6)),
    _gpu("RTX-2080-Ti", 10.6, _A, 0.616, 54, 0, "PCIe", 32, (7, 5)),
    _gpu("RTX-3060", 11.6, _A, 0.36, 25, 0, "PCIe", 64, (8, 6)),
    _gpu("RTX-3070", 7.6, _A, 0.448, 41, 0, "PCIe", 64, (8, 6)),
    _gpu("RTX-3080", 9.6, _A, 0.76, 60, 0, "PCIe", 64, (8, 6)),
    _gpu("RTX-4060", 7.6, _A, 0.272, 30, 60, "PCIe", 32, (8, 9)),
    _gpu("RTX-4070", 11.6, _A, 0.504, 58, 117, "PCIe", 64, (8, 9)),
    _gpu("RTX-4070-Super", 11.6, _A, 0.504, 71, 142, "PCIe", 64, (8, 9)),
    _gpu("RTX-4060-Ti-16GB", 15.6, _A, 0.288, 44, 88, "PCIe", 32, (8, 9)),
    _gpu("RTX-4070-Ti", 11.6, _A, 0.504, 80, 160, "PCIe", 64, (8, 9)),
    _gpu("RTX-4070-Ti-Super", 15.6, _A, 0.672, 88, 176, "PCIe", 64, (8, 9)),
    _gpu("RTX-4080", 15.6, _A, 0.717, 97, 195, "PCIe", 64, (8, 9)),
    _gpu("RTX-4080-Super", 15.6, _A, 0.736, 104, 209, "PCIe", 64, (8, 9)),
    _gpu("RTX-4090-D", 23.52, _A, 1.008, 147, 294, "PCIe", 64, (8, 9)),
    _gpu("RTX-5060-Ti-16GB", 15.5, _A, 0.448, 47, 95, "PCIe", 64, (12, 0)),
    _gpu("RTX-5070", 11.5, _A, 0.672, 62, 123, "PCIe", 128, (12, 0)),
    _gpu("RTX-5070-Ti", 15.5, _A, 0.896, 88, 176, "PCIe", 128, (12, 0)),
    _gpu("RTX-5080", 15.5, _A, 0.96, 113, 225, "PCIe", 128, (12, 0)),
    _gpu("RTX-5090-D", 31.36, _A, 1.792, 148, 297, "PCIe", 128, (12, 0)),
)
_LISTED = 12  # in an error; `farspan gpus` has all
_ALIASES = {
    "a100": "a10080gb",
    "a10080": "a10080gb",
    "a10040": "a10040gb",
    "h100sxm": "h100",
    "h10080gb": "h100",
    "h200sxm": "h200",
    "h200141gb": "h200",
    "rtx6000ada": "rtx6000ada",
    "rtxa6000": "a6000",
    "rtxpro6000blackwell": "rtxpro6000",
    "h100pcie80gb": "h100pcie",
    "h2096gb": "h20",
    "h200nvl": "h200",
    "gh20096gb": "gh200",
    "a100sxm": "a10080gb",
    "a800": "a80080gb",
    "v100": "v10032gb",
    "rtxa5000": "a5000",
    "rtxa4000": "a4000",
    "rtx4060ti": "rtx4060ti16gb",
    "rtx5060ti": "rtx5060ti16gb",
    "dgxspark": "gb10",
    "mi250": "mi250x",
}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_KEY = {_key(gpu.name): gpu for gpu in _GPUS}


def gpus() -> tuple[Gpu, ...]:
    """Every GPU of the catalog."""
    return _GPUS


def known_gpu(name: str) -> Gpu | None:
    """The GPU called `name`, as `find_gpu` finds it; None when the catalog has none."""
    key = _key(name)
    for maker in ("nvidia", "amd", "geforce"):
        key = key.removeprefix(maker)
    return _BY_KEY.get(_ALIASES.get(key, key)) or _BY_KEY.get(f"rtx{key}")


def given_gpu(name: str, memory_gib: float) -> Gpu:
    """A GPU of so much memory: the catalog's with that instead of its own, or one the catalog lacks.

    What the catalog lacks gets the rates of the card nearest in memory, and says so in its name.

    Raises:
        InputError: The memory is no size.
    """
    if not 0 < memory_gib < 10_000:
        raise InputError(f"--gpu-memory-gib {memory_gib} is not a memory size", "give GiB, such as 94.5")
    known = known_gpu(name)
    if known is None:
        nearest = min(_GPUS, key=lambda gpu: abs(gpu.memory_bytes / GIB - memory_gib))
        known = replace(nearest, name=f"{name} (rates assumed as {nearest.name}'s)")
    return replace(known, memory_bytes=round(memory_gib * GIB), memory_origin=Origin.GIVEN)


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`, in any case and with or without dashes.

    Raises:
        NotFoundError: The catalog has none of that name.
    """
    gpu = known_gpu(name)
    if gpu is None:
        known = [candidate.name for candidate in _GPUS]
        import difflib

        close = difflib.get_close_matches(name.upper(), known, n=1)
        listed = f"known are {', '.join(known[:_LISTED])} and more: farspan gpus"
        hint = f"did you mean {close[0]}?" if close else listed
        hint += f"{'' if close else '.'} Any other is planned with --gpu-memory-gib"
        raise NotFoundError(f"{name!r} is not a GPU farspan knows", hint)
    return gpu
