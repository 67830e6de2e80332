"""A request waits while nothing runs: it is larger than the KV cache can ever hold."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState

_LINES = 2


def _look(situation: ServerState) -> Diagnosis | None:
    stuck = situation.rates.worst_stuck
    if stuck is None or stuck.lines < _LINES:
        return None
    since = ""
    if stuck.since is not None and stuck.until is not None:
        since = f" for at least {stuck.until - stuck.since:.0f} s"
    ratio, length = situation.figures.get("max_concurrency"), situation.figures.get("max_model_len")
    small = ratio is not None and ratio < 1
    who = "1 request waits" if stuck.waiting == 1 else f"{stuck.waiting} requests wait"
    cause = f"{who}{since} while nothing runs"
    if small and ratio is not None and length is not None:
        holds = int(ratio * length)
        cause += (
            f": the KV cache holds about {holds:,} tokens and the request is longer. It will never start."
        )
    else:
        cause += ": most likely the request is longer than the KV cache can hold, and will never start."
    fix = [
        "cancel the request (the server recovers), and send one that fits",
        "leave hybrid KV groups on (VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE=1 up to 0.13; never "
        "--disable-hybrid-kv-cache-manager), or lower --max-model-len so that such a request is "
        "refused at once",
    ]
    evidence = Evidence(stuck.line, f"Running: 0 reqs, Waiting: {stuck.waiting} reqs", stuck.lines)
    return Diagnosis(cause, tuple(fix), Confidence.STRONG if small else Confidence.LIKELY, evidence=evidence)


RULE = StateRule(
    id="vllm-request-stuck",
    severity=Severity.ERROR,
    look=_look,
    sources=("vllm-project/vllm#39734", "observed on vllm 0.12.0"),
)
