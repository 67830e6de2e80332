"""The model cache is mounted read-only, and the engine writes into it."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="read-only-cache",
    severity=Severity.ERROR,
    needles=("Read-only file system", "Permission denied: '"),
    pattern=re.compile(
        r"\[Errno 30\] Read-only file system(?:: '(?P<path>[^']*)')?"
        r"|PermissionError: \[Errno 13\] Permission denied: '[^']*(?:cache|huggingface|hub)[^']*'"
    ),
    explain=diagnose(
        "The engine cannot write into its cache: given a hub id it writes lock files and metadata even when "
        "every file is there, and the cache is mounted read-only or belongs to another user.",
        "mount the cache writable: docker run -v ~/.cache/huggingface:/root/.cache/huggingface (no :ro)",
        "or give the snapshot's folder instead of the hub id: .../models--OWNER--NAME/snapshots/HASH",
        "or set HF_HOME to a writable folder, with HF_HUB_OFFLINE=1 when nothing may be fetched",
    ),
    sources=(
        "huggingface/huggingface_hub#2797",
        "llm-d-incubation/llm-d-modelservice#243",
        "vllm-project/vllm#20127",
    ),
)
