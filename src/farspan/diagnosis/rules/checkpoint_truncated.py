"""A weight file is not complete."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="checkpoint-truncated",
    severity=Severity.ERROR,
    needles=(
        "SafetensorError",
        "MetadataIncompleteBuffer",
        "HeaderTooLarge",
        "HeaderTooSmall",
        "InvalidHeaderDeserialization",
    ),
    pattern=re.compile(
        r"SafetensorError|MetadataIncompleteBuffer|HeaderToo(?:Large|Small)|InvalidHeaderDeserialization"
    ),
    explain=diagnose(
        "A weight file is cut short or is not one: a download was interrupted, or the file is a Git LFS "
        "pointer.",
        "download it again: hf download OWNER/NAME --force-download",
        "a file of some hundred bytes is a Git LFS pointer: git lfs pull",
    ),
    sources=("vllm-project/vllm#15445", "QwenLM/Qwen3-VL#264", "gpustack/gpustack#815"),
)
