"""The image was built without kernels for this GPU."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="no-kernel-image",
    severity=Severity.ERROR,
    needles=("no kernel image is available for execution on the device",),
    pattern=re.compile(r"no kernel image is available for execution on the device"),
    explain=diagnose(
        "The image has no kernels for this GPU's generation: the GPU is newer than the image, or too old for "
        "it.",
        "a newer image (Blackwell needs one built with CUDA 12.8 or later)",
        "on old GPUs: build the engine from source with TORCH_CUDA_ARCH_LIST set",
    ),
    sources=("vllm-project/vllm#20193", "vllm-project/vllm#19906", "vllm-project/vllm#14452"),
)
