"""vLLM refuses to start: one request of max-model-len does not fit the KV cache."""

from __future__ import annotations

import math
import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.planned_server import planned, spec_of
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"max seq len \((?P<length>\d+)\),? \(?(?P<needed>\d+(?:\.\d+)?) GiB KV cache is needed, which is larger than "
    r"the available KV cache memory \((?P<has>\d+(?:\.\d+)?) GiB\)"
    r"(?:.*?estimated maximum model length is (?P<estimate>\d+))?"
)


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    match = sighting.match
    length, estimate = int(match["length"]), int(match["estimate"] or 0)
    cause = (
        f"One request of --max-model-len {length:,} needs {match['needed']} GiB of KV cache on a GPU and "
        f"{match['has']} GiB are left."
    )
    fix: list[str] = []
    if estimate:
        fix.append(f"--max-model-len {estimate} fits as things are (vLLM's own estimate)")
    if situation.text("device_config") == "cpu":
        fix.append(f"VLLM_CPU_KVCACHE_SPACE={math.ceil(float(match['needed']))} in the environment (GiB)")
        return Diagnosis(cause.replace(" on a GPU", ""), tuple(fix))
    spec = spec_of(situation)
    if spec is not None and length > spec.max_position_embeddings:
        fix.append(f"the model itself was made for {spec.max_position_embeddings:,} tokens")
    plan = planned(situation)
    steps = plan.steps() if plan is not None else ()
    fix.extend(steps)
    if situation.is_on("disable_hybrid_kv_cache_manager") and not any(
        "--disable-hybrid-kv-cache-manager" in step for step in steps
    ):
        fix.append(
            "drop --disable-hybrid-kv-cache-manager: with hybrid groups, window and chunked layers "
            "keep their window only"
        )
    if not fix or plan is None:
        fix.append(
            "raise --gpu-memory-utilization (not above 0.94), use --kv-cache-dtype fp8_e4m3 (half the "
            "bytes), or a "
            "larger --tensor-parallel-size"
        )
    fix.append(
        f"`farspan plan MODEL --gpus NxGPU --engine vllm --context {length}` shows every way with its cost"
    )
    return Diagnosis(cause, tuple(fix))


RULE = Rule(
    id="vllm-context-too-long",
    severity=Severity.ERROR,
    needles=("GiB KV cache is needed",),
    pattern=_PATTERN,
    explain=_explain,
    sources=("vllm-project/vllm#34076", "vllm-project/vllm#16118", "vllm v1/core/kv_cache_utils.py"),
)
