"""SGLang threw running requests out of a full pool."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    pool = situation.figures.get("max_total_num_tokens")
    holds = f" (it holds {pool:,.0f} tokens)" if pool else ""
    return Diagnosis(
        f"The KV pool was full{holds} and running requests were taken out, {sighting.count} times: their prompts are "
        "computed again later.",
        (
            "--max-running-requests N, with N prompts of your length fitting the pool",
            "--schedule-conservativeness 1.3: admits fewer at once",
        ),
    )


RULE = Rule(
    id="sglang-retracted",
    severity=Severity.WARNING,
    needles=("KV cache pool is full. Retract requests",),
    pattern=re.compile(r"KV cache pool is full\. Retract requests"),
    explain=_explain,
    sources=("sgl-project/sglang#26248",),
)
