"""The hub cannot be reached and the files are not there."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="hub-unreachable",
    severity=Severity.ERROR,
    needles=(
        "We couldn't connect to 'https://huggingface.co'",
        "LocalEntryNotFoundError",
        "Max retries exceeded with url",
        "outgoing traffic has been disabled",
    ),
    pattern=re.compile(
        r"We couldn't connect to 'https://huggingface\.co'|LocalEntryNotFoundError"
        r"|huggingface\.co.{0,200}Max retries exceeded"
        r"|Max retries exceeded with url.{0,300}huggingface|outgoing traffic has been disabled"
    ),
    explain=diagnose(
        "The model is not (wholly) in the cache and the hub cannot be reached.",
        "download it first where there is a network (hf download OWNER/NAME), and mount that cache",
        "then set HF_HUB_OFFLINE=1: the engine asks nobody",
    ),
    sources=("huggingface/huggingface_hub docs: offline mode",),
)
