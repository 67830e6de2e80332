"""vLLM refuses to start: weights and the profile run leave nothing for KV."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.planned_server import planned
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:  # noqa: ARG001
    weights = situation.figures.get("weights_gib")
    share = situation.number("gpu_memory_utilization")
    cause = "Weights and activations use up everything vLLM may take: nothing is left for KV cache"
    details = []
    if weights is not None:
        details.append(f"weights {weights:.1f} GiB")
    if share is not None:
        details.append(f"--gpu-memory-utilization {share:g}")
    cause += f" ({', '.join(details)})." if details else "."
    plan = planned(situation)
    fix = plan.steps() if plan is not None else ()
    return Diagnosis(
        cause,
        (
            *fix,
            "raise --gpu-memory-utilization (not above 0.94), or spread the weights: a larger --tensor-parallel-size",
            "lower --max-num-batched-tokens: the profile run takes less",
        ),
    )


RULE = Rule(
    id="vllm-no-cache-blocks",
    severity=Severity.ERROR,
    needles=("No available memory for the cache blocks",),
    pattern=re.compile(r"No available memory for the cache blocks"),
    explain=_explain,
    sources=("vllm v1/core/kv_cache_utils.py: check_enough_kv_cache_memory",),
)
