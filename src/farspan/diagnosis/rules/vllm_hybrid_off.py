"""Hybrid KV groups are off: window and chunked layers keep every token, and contexts are short."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.planned_server import planned
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_CHUNKED = "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE"


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    text = sighting.message.text
    cause = (
        "Hybrid KV groups are off: every layer keeps every token, also those that only look at a window or chunk. "
        "The longest request is several times shorter than it could be."
    )
    if _CHUNKED in text:
        fix = [f"set {_CHUNKED}=1 (the default from 0.14)"]
    elif "kv-transfer-config" in text:
        fix = ["drop --kv-transfer-config, or use a connector that supports hybrid groups"]
    else:
        fix = ["drop --disable-hybrid-kv-cache-manager"]
    plan = planned(situation)
    if plan is not None:
        fix.extend(plan.steps())
    return Diagnosis(cause, tuple(fix))


RULE = Rule(
    id="vllm-hybrid-off",
    severity=Severity.WARNING,
    needles=(
        "Turning off hybrid kv cache manager",
        "Hybrid KV cache manager is disabled for this hybrid model",
        _CHUNKED,
    ),
    pattern=re.compile(
        r"Turning off hybrid kv cache manager|Hybrid KV cache manager is disabled for this hybrid model"
        rf"|set the environment\s+{_CHUNKED}=1"
    ),
    explain=_explain,
    sources=("vllm 0.12.0 config/vllm.py", "vllm 0.12.0 v1/core/kv_cache_utils.py"),
)
