"""The model brings its own code and was not allowed to run it."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="trust-remote-code",
    severity=Severity.ERROR,
    needles=("trust_remote_code=True",),
    pattern=re.compile(
        r"(?:requires you to execute the configuration file|contains custom code"
        r"|please pass the argument `trust_remote_code=True`|set the option `trust_remote_code=True`)"
    ),
    explain=diagnose(
        "The model brings its own Python code, and engines run that only when told to.",
        "read the code, then add --trust-remote-code",
        "or use a newer engine that has the architecture built in",
    ),
    sources=("vllm docs: trust-remote-code",),
)
