"""The process may not open more files."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="too-many-open-files",
    severity=Severity.ERROR,
    needles=("Too many open files",),
    pattern=re.compile(r"^\s*OSError: \[Errno 24\] Too many open files|accept\(\).*Too many open files"),
    explain=diagnose(
        "The process reached its limit of open files and connections.",
        "docker run --ulimit nofile=1048576:1048576, or ulimit -n 65536 before the start",
    ),
    sources=("vllm utils/system_utils.py: set_ulimit",),
)
