"""SGLang to 0.5.10: a prompt larger than the window pool queues for ever."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState


def _look(situation: ServerState) -> Diagnosis | None:
    full, window = situation.figures.get("full_layer_tokens"), situation.figures.get("swa_layer_tokens")
    context = situation.context
    if situation.engine != "sglang" or not full or not window or context is None:
        return None
    if window >= min(context, full) or not situation.number("hybrid_kvcache_ratio"):
        return None
    stuck = situation.rates.queue_stuck
    cause = (
        f"Up to 0.5.10 a prompt is admitted only if it fits the smaller pool whole: one longer than the window pool "
        f"({window:,.0f} tokens) queues for ever, without an error, though the full pool holds {full:,.0f}."
    )
    line = situation.figure_lines.get("swa_layer_tokens", situation.last.line)
    return Diagnosis(
        cause,
        (
            "--hybrid-kvcache-ratio 1: the window pool holds as many tokens as the full one",
            "or SGLang 0.5.16 and later, where admission is right: --swa-full-tokens-ratio 0.05",
        ),
        Confidence.STRONG,
        severity=Severity.ERROR if stuck else None,
        evidence=Evidence(line, f"full_layer_tokens={full:.0f}, swa_layer_tokens={window:.0f}"),
    )


RULE = StateRule(
    id="sglang-queue-stuck",
    severity=Severity.WARNING,
    look=_look,
    sources=("sglang 0.5.6.post2 srt/managers/schedule_policy.py",),
)
