"""The GPUs farspan knows.

Bandwidth, rates and links are the vendors' data sheets, dense (no sparsity). Memory is what torch reports,
which is less than the sticker and less than nvidia-smi: measured (to the byte); or as torch's out-of-memory
messages on such cards round it ("total capacity of 178.35 GiB"), the smallest where drivers differ; or assumed.
Public messages: H100-NVL ali-vilab/VACE#56; GH200 vllm-project/vllm#9630; RTX-6000-Ada (ECC on)
DINGYANB/MTVCrafter#21; RTX-5090 TrajectoryCrafter/TrajectoryCrafter#20; RTX-4090 sgl-project/sglang#12496
(23.52, a new driver) and ali-vilab/VGen#104 (23.64); RTX-PRO-6000 antirez/ds4#431. B200, GB200, MI300X (191.69
or 191.98), L40S (44.39 or 44.40), A6000 (47.40 to 47.54), L4 (22.03 to 22.15) and A100 in many published logs.
"""

from __future__ import annotations

import re

from farspan.errors import NotFoundError
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
)
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
    "5090": "rtx5090",
    "4090": "rtx4090",
}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_KEY = {_key(gpu.name): gpu for gpu in _GPUS}


def gpus() -> tuple[Gpu, ...]:
    """Every GPU of the catalog."""
    return _GPUS


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`, in any case and with or without dashes.

    Raises:
        NotFoundError: The catalog has none of that name.
    """
    key = _key(name)
    gpu = _BY_KEY.get(_ALIASES.get(key, key))
    if gpu is None:
        known = [candidate.name for candidate in _GPUS]
        import difflib

        close = difflib.get_close_matches(name.upper(), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        raise NotFoundError(f"{name!r} is not a GPU farspan knows", hint)
    return gpu
