"""vLLM (to 0.13) starts although not one request of max-model-len fits: a long one hangs for ever."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.planned_server import planned
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState


def _look(situation: ServerState) -> Diagnosis | None:
    ratio, length = situation.figures.get("max_concurrency"), situation.figures.get("max_model_len")
    if ratio is None or length is None or ratio >= 1:
        return None
    fits = int(ratio * length)
    cause = (
        f"The server accepts requests of {length:,.0f} tokens and its KV cache holds about {fits:,} (concurrency "
        f"{ratio:.2f}x). A longer request is not refused: it waits for ever, with the GPU idle and no line in the log."
    )
    fix = [f"--max-model-len {fits} makes the server refuse what it cannot hold"]
    if situation.is_on("disable_hybrid_kv_cache_manager") or situation.version_below("0.14.0"):
        fix.insert(
            0,
            "turn hybrid KV groups on: drop --disable-hybrid-kv-cache-manager and set "
            "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE=1 (the default from 0.14)",
        )
    plan = planned(situation)
    if plan is not None:
        fix.extend(plan.steps())
    line = situation.figure_lines.get("max_concurrency", situation.last.line)
    text = f"Maximum concurrency for {length:,.0f} tokens per request: {ratio:.2f}x"
    return Diagnosis(cause, tuple(fix), Confidence.CERTAIN, evidence=Evidence(line, text))


RULE = StateRule(
    id="vllm-concurrency-below-one",
    severity=Severity.WARNING,
    look=_look,
    sources=("vllm-project/vllm#39734", "vllm 0.12.0 v1/core/kv_cache_utils.py"),
)
