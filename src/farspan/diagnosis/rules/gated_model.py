"""The hub does not let this token read the model."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="gated-model",
    severity=Severity.ERROR,
    needles=("gated repo", "GatedRepoError", "401 Client Error", "403 Client Error"),
    pattern=re.compile(
        r"gated repo|GatedRepoError|(?:401|403) Client Error.{0,80}huggingface\.co|Access to model \S+ is restricted"
    ),
    explain=diagnose(
        "The model is gated: the hub answers 401 or 403 because no token was given, or its owner has not "
        "accepted the licence.",
        "accept the licence on the model's page, and pass HF_TOKEN in the environment (docker run -e "
        "HF_TOKEN, a Kubernetes Secret)",
        "the token needs read access to gated repositories",
    ),
    sources=("vllm-project/vllm#8331", "skypilot-org/skypilot#2634"),
)
