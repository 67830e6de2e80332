"""This version of the engine does not know the model's architecture."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="architecture-unsupported",
    severity=Severity.ERROR,
    needles=(
        "are not supported for now",
        "is not supported, the supported archs",
        "has no vLLM implementation",
        "Unsupported architectures",
    ),
    pattern=re.compile(
        r"Model architectures \[.{1,200}?\] (?:are not supported for now|failed to be inspected)"
        r"|is not supported, the supported archs|has no vLLM implementation|Unsupported architectures"
    ),
    explain=diagnose(
        "This version of the engine does not know the model's architecture, or failed to import the module "
        "that has it (then another error stands above).",
        "use a newer image of the engine: the model's card says from which version",
        "if the name is in the printed list of supported ones, an import failed: read the error above it",
    ),
    sources=("vllm-project/vllm#9713", "vllm-project/vllm#22231", "vllm-project/vllm#32338"),
)
