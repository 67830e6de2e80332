"""The GPU driver is older than the image's CUDA."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="driver-too-old",
    severity=Severity.ERROR,
    needles=(
        "driver on your system is too old",
        "driver version is insufficient",
        "unsatisfied condition: cuda",
        "forward compatibility was attempted",
    ),
    pattern=re.compile(
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient"
        r"|unsatisfied condition: cuda|forward compatibility was attempted"
    ),
    explain=diagnose(
        "The GPU driver of this machine is older than the CUDA the image was built with.",
        "update the driver on the host (the container's own libraries cannot help)",
        "or use an image built for an older CUDA, such as one whose tag says cu126",
    ),
    sources=("vllm-project/vllm#1772", "vllm-project/vllm#5635"),
)
