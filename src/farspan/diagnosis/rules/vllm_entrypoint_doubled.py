"""The container's command repeats what its entrypoint already says."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="vllm-entrypoint-doubled",
    severity=Severity.ERROR,
    needles=("unrecognized arguments: ", "invalid choice: "),
    pattern=re.compile(
        r"error: unrecognized arguments: (?:(?:.*?\s)?-m\s+vllm\.entrypoints|(?:vllm )?serve\b"
        r"|python3?\b|/bin/(?:ba)?sh\b)"
        r"|unrecognized arguments: .*\bvllm\.entrypoints\.openai\.api_server\b"
        r"|invalid choice: '(?:vllm|python3?)'"
    ),
    explain=diagnose(
        "The image's entrypoint already is `vllm serve` (older images: the API server), and the "
        "container's command "
        "repeats it: vLLM reads those words as arguments, and the container ends with code 2 within seconds.",
        "start the command with the model: docker run [OPTIONS] vllm/vllm-openai:TAG MODEL [FLAGS]",
        "or replace the entrypoint: docker run --entrypoint python3 IMAGE -m "
        "vllm.entrypoints.openai.api_server --model MODEL",
    ),
    sources=("vllm-project/vllm#22072", "vllm-project/vllm#37133", "observed on vllm 0.12.0"),
)
