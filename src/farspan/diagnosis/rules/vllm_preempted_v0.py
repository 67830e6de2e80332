"""The same in words of vLLM's first engine."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="vllm-preempted-v0",
    severity=Severity.WARNING,
    needles=("is preempted by PreemptionMode",),
    pattern=re.compile(
        r"is preempted by PreemptionMode\.\w+ mode because there is not enough KV cache space"
    ),
    explain=diagnose(
        "Requests are preempted: the KV cache is full, and what they had computed is computed again.",
        "lower --max-num-seqs so that no more requests start than fit",
    ),
    sources=("vllm-project/vllm#11805",),
)
