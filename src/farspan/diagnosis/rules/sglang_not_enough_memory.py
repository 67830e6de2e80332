"""SGLang has no room for a KV pool: the weights take more than the static fraction."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.planned_server import planned
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    free, weights = situation.figures.get("free_before_gib"), situation.figures.get("weights_gib")
    fraction = situation.number("mem_fraction_static")
    if fraction is None and sighting.match["fraction"]:
        fraction = float(sighting.match["fraction"])
    cause = "The weights take all that --mem-fraction-static allows: no KV pool fits beside them"
    fix: list[str] = []
    if free and weights:
        least = weights / free
        cause += f" (weights {weights:.1f} of {free:.1f} GiB are a fraction of {least:.2f}"
        cause += f", and {fraction:g} is set)" if fraction is not None else ")"
        wanted = min(least + 0.1, 0.95)
        if wanted > least:
            fix.append(
                f"--mem-fraction-static {wanted:.2f} or more: the fraction covers weights and KV pool "
                f"together"
            )
    plan = planned(situation)
    if plan is not None:
        fix.extend(plan.steps())
    if not fix:
        fix.append("a higher --mem-fraction-static: the fraction covers weights and KV pool together")
    fix.append("or a larger --tp-size, or an FP8 checkpoint")
    return Diagnosis(f"{cause}.", tuple(fix))


RULE = Rule(
    id="sglang-not-enough-memory",
    severity=Severity.ERROR,
    needles=("Not enough memory. Please try to increase --mem-fraction-static",),
    pattern=re.compile(
        r"Not enough memory\. Please try to increase --mem-fraction-static\.?"
        r"(?:.*?mem_fraction_static=(?P<fraction>\d*\.\d+))?"
    ),
    explain=_explain,
    sources=("sgl-project/sglang#322", "sgl-project/sglang#4330"),
)
