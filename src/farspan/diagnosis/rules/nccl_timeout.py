"""A collective operation did not finish: one rank is missing."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="nccl-timeout",
    severity=Severity.ERROR,
    needles=("Watchdog caught collective operation timeout",),
    pattern=re.compile(r"Watchdog caught collective operation timeout"),
    explain=diagnose(
        "A collective operation waited until its timeout: one rank had died, hung, or was busy with something "
        "the others were not.",
        "look for the first error of another rank before this line: that is the reason",
        "where one step is really that long: --dist-timeout 3600 (SGLang), --distributed-timeout-seconds "
        "(vLLM)",
        confidence=Confidence.STRONG,
    ),
    sources=("sgl-project/sglang#3784", "sgl-project/sglang#3932"),
)
