"""A disk is full."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="disk-full",
    severity=Severity.ERROR,
    needles=("No space left on device",),
    pattern=re.compile(r"No space left on device"),
    explain=diagnose(
        "A disk is full: the model cache, the compile cache, /tmp, or, for a file under /dev/shm, the shared "
        "memory.",
        "`df -h` inside the container shows which; mount a larger volume at HF_HOME",
        "for /dev/shm: docker run --shm-size 16g",
    ),
    sources=("huggingface/text-generation-inference#3087", "NVIDIA/Megatron-LM#878"),
)
