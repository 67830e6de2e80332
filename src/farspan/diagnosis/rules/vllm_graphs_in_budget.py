"""From 0.21 vLLM keeps memory back for CUDA graphs: the same utilization gives less KV cache than before."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"current --gpu-memory-utilization=(?P<now>[\d.]+) is equivalent to --gpu-memory-utilization=(?P<old>[\d.]+)"
    r" without.*?increase --gpu-memory-utilization to (?P<same>[\d.]+)"
)


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:  # noqa: ARG001
    match = sighting.match
    now, same = float(match["now"].rstrip(".")), float(match["same"].rstrip("."))
    return Diagnosis(
        f"Memory for CUDA graphs is kept back from the KV cache: --gpu-memory-utilization {now:.4g} "
        f"gives what "
        f"{float(match['old'].rstrip('.')):.4g} gave before 0.21. Nothing is wrong.",
        (f"--gpu-memory-utilization {same:.4g} gives the KV cache of earlier versions",),
    )


RULE = Rule(
    id="vllm-graphs-in-budget",
    severity=Severity.INFO,
    needles=("without CUDA graph memory profiling",),
    pattern=_PATTERN,
    explain=_explain,
    sources=("vllm 0.24.0 v1/worker/gpu_worker.py",),
)
