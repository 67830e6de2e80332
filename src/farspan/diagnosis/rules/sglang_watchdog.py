"""SGLang's watchdog ended the server: one batch took longer than it allows."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    stated = sighting.match["limit"]
    limit = float(stated.rstrip(".")) if stated else (situation.number("watchdog_timeout") or 300.0)
    return Diagnosis(
        f"One batch took longer than --watchdog-timeout ({limit:.0f} s) and SGLang ended itself. With a very long "
        "context the chunks at its end may take that long; else a rank hangs.",
        (
            f"--watchdog-timeout {max(int(limit) * 12, 3600)}",
            "--chunked-prefill-size 4096: each chunk is shorter",
            "if all chunks were quick until then, look for the rank that hangs: NCCL_DEBUG=INFO, py-spy dump",
        ),
        Confidence.STRONG,
    )


RULE = Rule(
    id="sglang-watchdog",
    severity=Severity.ERROR,
    needles=("Watchdog timeout", "watchdog timeout"),
    pattern=re.compile(r"(?i)(?:scheduler |^)watchdog timeout(?:.{0,40}?timeout=(?P<limit>[\d.]+))?"),
    explain=_explain,
    sources=("sgl-project/sglang#3836", "sgl-project/sglang#8232"),
)
