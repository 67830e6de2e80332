"""The container's /dev/shm is too small for the ranks."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="shared-memory-too-small",
    severity=Severity.ERROR,
    needles=(
        "Error while creating shared memory segment",
        "Error while attaching to shared memory",
        "Bus error",
        "SIGBUS received",
        "unable to allocate shared memory",
        "unable to open shared memory object",
        "/dev/shm has only",
    ),
    pattern=re.compile(
        r"Error while (?:creating|attaching to) shared memory segment|Fatal Python error: Bus error"
        r"|\bBus error\b|SIGBUS received|unable to (?:allocate|open) shared memory"
        r"|/dev/shm has only \d+ bytes"
    ),
    explain=diagnose(
        "/dev/shm is too small: the ranks exchange data through it, and a container gets 64 MiB unless told "
        "otherwise.",
        "docker run --shm-size 16g (or --ipc=host)",
        "Kubernetes: an emptyDir with medium: Memory mounted at /dev/shm",
        confidence=Confidence.STRONG,
    ),
    sources=(
        "vllm-project/vllm#1771",
        "vllm-project/vllm#859",
        "MiniMax-AI/MiniMax-01#42",
        "NVIDIA/nccl#2190",
    ),
)
