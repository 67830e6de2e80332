"""fp8_e5m2 KV cache meets a query quantized to E4M3: vLLM asserts."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:  # noqa: ARG001
    scales = situation.is_on("calculate_kv_scales")
    cause = (
        "The attention backend (FlashAttention 3 on Hopper) quantizes the query to E4M3 and takes only an E4M3 KV "
        "cache: --kv-cache-dtype fp8_e5m2 cannot be used with it."
    )
    if scales:
        cause += " --calculate-kv-scales stands beside it and is not the reason."
    fix = ["--kv-cache-dtype fp8_e4m3"]
    if scales:
        fix.append("drop --calculate-kv-scales when moving to 0.29 or later: the flag is gone there")
    return Diagnosis(cause, tuple(fix))


RULE = Rule(
    id="fp8-e5m2-asserts",
    severity=Severity.ERROR,
    needles=("kv_cache_dtype in {",),
    pattern=re.compile(r"assert self\.kv_cache_dtype in \{[^}]*fp8"),
    explain=_explain,
    sources=("vllm 0.12.0 attention/layer.py: Attention.forward", "vllm-project/vllm#42569"),
)
