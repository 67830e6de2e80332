"""There is no such model, neither on the hub nor at that path."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="model-not-found",
    severity=Severity.ERROR,
    needles=(
        "is not a local folder and is not a valid model identifier",
        "RepositoryNotFoundError",
        "Repo id must be in the form",
        "does not appear to have a file named config.json",
        "Invalid repository ID or local directory",
    ),
    pattern=re.compile(
        r"is not a local folder and is not a valid model identifier|RepositoryNotFoundError"
        r"|Repo id must be in the form|does not appear to have a file named config\.json"
        r"|Invalid repository ID or local directory"
    ),
    explain=diagnose(
        "The model's name is neither a folder inside the container nor a repository on the hub.",
        "check the spelling; a path must be the path inside the container, mounted with -v",
        "a folder must hold config.json: of a hub cache give .../snapshots/HASH, not the folder above",
    ),
    sources=("vllm-project/vllm v0.12 transformers_utils/config.py",),
)
