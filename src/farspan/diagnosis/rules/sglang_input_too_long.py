"""SGLang refused a prompt longer than its pool or context."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.planned_server import planned
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"Input length \((?P<length>\d+) tokens\) exceeds the maximum allowed length \((?P<most>\d+) tokens\)"
    r"|Request length is longer than the KV cache pool size or the max context length\. Truncated\."
)


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    if sighting.match["length"] is None:
        return Diagnosis(
            "A prompt was longer than the pool or the context and was cut without telling the client "
            "(--allow-auto-truncate): the answer is about a part of it.",
            ("drop --allow-auto-truncate: such a prompt is answered with 400 then",),
        )
    length, most = int(sighting.match["length"]), int(sighting.match["most"])
    context, pool = situation.context, situation.figures.get("max_total_num_tokens")
    by_pool = pool is not None and (context is None or pool < context)
    limit = "the KV pool" if by_pool else "--context-length"
    fix: list[str] = []
    if by_pool:
        plan = planned(situation)
        if plan is not None:
            fix.extend(plan.steps())
        fix.append(
            "a larger pool: --kv-cache-dtype fp8_e4m3, a higher --mem-fraction-static, "
            "--swa-full-tokens-ratio 0.05 for models "
            "with window layers (from 0.5.16)"
        )
    else:
        fix.append(f"--context-length {length + 1000}, when the model allows it")
    return Diagnosis(
        f"A prompt of {length:,} tokens was refused: at most {most:,} are taken, because of {limit}.",
        tuple(fix),
    )


RULE = Rule(
    id="sglang-input-too-long",
    severity=Severity.WARNING,
    needles=("exceeds the maximum allowed length", "longer than the KV cache pool size"),
    pattern=_PATTERN,
    explain=_explain,
    sources=("sgl-project/sglang#4048", "sglang srt/managers/utils.py: validate_input_length"),
)
