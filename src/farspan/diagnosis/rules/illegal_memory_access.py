"""A GPU kernel read outside of its memory."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="illegal-memory-access",
    severity=Severity.ERROR,
    needles=(
        "an illegal memory access was encountered",
        "device-side assert triggered",
        "CUBLAS_STATUS_EXECUTION_FAILED",
    ),
    pattern=re.compile(r"an illegal memory access was encountered|device-side assert triggered"),
    explain=diagnose(
        "A GPU kernel faulted. The line is where it was noticed, not where it happened. With long contexts: "
        "positions beyond the model's limit, an index that overflows 32 bits, or a bug of that version's "
        "attention backend.",
        "try another attention backend (--attention-backend), and --enforce-eager or --disable-cuda-graph, to "
        "find the kernel",
        "make sure the context is within the model's own limit; then try a newer version",
        "CUDA_LAUNCH_BLOCKING=1 makes the next traceback show the right place",
        confidence=Confidence.LIKELY,
    ),
    sources=("vllm-project/vllm#1700", "vllm-project/vllm#24430", "vllm-project/vllm#17924"),
)
