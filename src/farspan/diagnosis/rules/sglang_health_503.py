"""SGLang's /health answers 503 while it works on a long prompt: a probe would kill a busy server."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    times = situation.door.health_503 or sighting.count
    return Diagnosis(
        f"/health answered 503 {times} times: it makes the server generate a token and gives up after "
        f"20 s, which a chunk of "
        "a long prompt, or the first request's kernel compilation, easily takes. A liveness probe on "
        "/health kills a "
        "server that is only busy.",
        (
            "probe /ping instead, or set SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=0",
            "if the server never answers again, it does hang: look for the first error",
        ),
        Confidence.STRONG,
    )


RULE = Rule(
    id="sglang-health-503",
    severity=Severity.WARNING,
    needles=("Health check failed. Server couldn't get a response",),
    pattern=re.compile(r"Health check failed\. Server couldn't get a response from detokenizer"),
    explain=_explain,
    sources=("sgl-project/sglang#10856", "sgl-project/sglang#26482", "observed on sglang 0.5.16"),
)
