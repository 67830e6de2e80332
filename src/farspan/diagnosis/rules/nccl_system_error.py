"""NCCL could not set up its connections."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="nccl-system-error",
    severity=Severity.ERROR,
    needles=(
        "unhandled system error",
        "ncclSystemError",
        "NCCL_ERROR_SYSTEM_ERROR",
        "ncclRemoteError",
        "ncclInternalError",
    ),
    pattern=re.compile(
        r"unhandled system error|ncclSystemError|NCCL_ERROR_SYSTEM_ERROR|ncclRemoteError|ncclInternalError"
    ),
    explain=diagnose(
        "NCCL could not set up its connections between the ranks: most often too little shared memory, a "
        "network interface it must not use, or limits of the container.",
        "docker run --shm-size 16g --ulimit memlock=-1",
        "several nodes: NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the right interface",
        "NCCL_DEBUG=INFO makes the next run say which call failed",
        confidence=Confidence.LIKELY,
    ),
    sources=("vllm-project/vllm#10626", "vllm-project/vllm#6574", "vllm-project/vllm#19613"),
)
