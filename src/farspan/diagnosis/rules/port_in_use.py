"""Another process listens on that port."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="port-in-use",
    severity=Severity.ERROR,
    needles=("address already in use", "Address already in use", "EADDRINUSE"),
    pattern=re.compile(r"(?i)address already in use|EADDRINUSE"),
    explain=diagnose(
        "Another process already listens on the port: an earlier server that still ends, or one that was "
        "left.",
        "`ss -ltnp` shows who; end it, or choose another --port",
        "several servers on one host also need different --nccl-port or VLLM_PORT values",
    ),
    sources=("vllm-project/vllm#8638", "vllm-project/vllm#9225", "vllm-project/vllm#7514"),
)
