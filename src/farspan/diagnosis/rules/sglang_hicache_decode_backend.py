"""SGLang 0.5.6: HiCache moves Llama 4's decode to a backend that ignores chunked attention."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState
from farspan.diagnosis.sglang_version import llama4, version_like


def _look(situation: ServerState) -> Diagnosis | None:
    if (
        situation.engine != "sglang"
        or not situation.is_on("enable_hierarchical_cache")
        or not llama4(situation)
    ):
        return None
    if version_like(situation) != "0.5.6" or situation.text("hicache_io_backend") not in ("", "kernel"):
        return None
    if situation.text("decode_attention_backend") not in ("", "flashinfer"):
        return None
    return Diagnosis(
        "With --enable-hierarchical-cache SGLang 0.5.6 decodes on flashinfer, which attends to every "
        "token in every layer. "
        "Llama 4's chunked layers must not: past 8,192 tokens the answers are wrong, without a word in "
        "the log.",
        ("--decode-attention-backend fa3", "or drop --enable-hierarchical-cache"),
        Confidence.STRONG,
        evidence=Evidence(situation.args_line, "server_args: enable_hierarchical_cache=True"),
    )


RULE = StateRule(
    id="sglang-hicache-decode-backend",
    severity=Severity.ERROR,
    look=_look,
    sources=("sglang 0.5.6.post2 srt/server_args.py",),
)
