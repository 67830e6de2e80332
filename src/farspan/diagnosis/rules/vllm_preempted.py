"""Requests are thrown out and computed again, because the KV cache is full."""

from __future__ import annotations

from farspan.diagnosis.findings import Evidence, Severity
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState


def _look(situation: ServerState) -> Diagnosis | None:
    count, line = situation.rates.preemptions
    if not count:
        return None
    return Diagnosis(
        f"{count} requests were preempted: the KV cache was full, and what they had computed is "
        f"computed again. With "
        "long prompts that costs minutes each.",
        (
            "--max-num-seqs N with N the concurrency the log gives for your prompt length, so that no "
            "more start than fit",
            "or more KV cache: --kv-cache-dtype fp8_e4m3, a larger --tensor-parallel-size",
        ),
        evidence=Evidence(line, f"Preemptions: {count}"),
    )


RULE = StateRule(
    id="vllm-preempted",
    severity=Severity.WARNING,
    look=_look,
    sources=("vllm-project/vllm#18115", "vllm v1/metrics/loggers.py"),
)
