"""The transformers library is older than the model."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="transformers-too-old",
    severity=Severity.ERROR,
    needles=("Transformers does not recognize this architecture",),
    pattern=re.compile(
        r"model type `?(?P<type>[\w-]+)`? but Transformers does not recognize this architecture"
    ),
    explain=diagnose(
        "The transformers library in this environment is older than the model and cannot read its config.",
        "use a newer image of the engine; upgrading transformers alone breaks the pair the engine was tested "
        "with",
    ),
    sources=("vllm-project/vllm#19793",),
)
