"""The GPU has no bfloat16."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="bfloat16-unsupported",
    severity=Severity.ERROR,
    needles=("Bfloat16 is only supported on GPUs with compute capability",),
    pattern=re.compile(r"Bfloat16 is only supported on GPUs with compute capability of at least"),
    explain=diagnose(
        "The model is in bfloat16 and this GPU (before Ampere) cannot compute with it.",
        "--dtype half",
        "or a GPU of compute capability 8.0 or more",
    ),
    sources=("vllm-project/vllm#1157", "vllm-project/vllm#946"),
)
