"""No GPU is visible to the engine."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="no-gpu",
    severity=Severity.ERROR,
    needles=(
        "Failed to infer device type",
        "No CUDA GPUs are available",
        "Found no NVIDIA driver",
        "no CUDA-capable device is detected",
    ),
    pattern=re.compile(
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver"
        r"|no CUDA-capable device is detected"
    ),
    explain=diagnose(
        "The engine sees no GPU.",
        "docker: add --gpus all (and install nvidia-container-toolkit); Kubernetes: resources.limits "
        "nvidia.com/gpu",
        "`nvidia-smi` inside the container must list the GPUs; CUDA_VISIBLE_DEVICES must not be empty",
    ),
    sources=("vllm-project/vllm#12847", "vllm-project/vllm#13946"),
)
