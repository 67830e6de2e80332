"""Out of GPU memory while starting, for no reason a more exact rule knows."""

from __future__ import annotations

from farspan.diagnosis import oom
from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.planned_server import planned
from farspan.diagnosis.records import StartPhase
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.rules.sglang_graph_tables_oom import is_graph_state
from farspan.diagnosis.rules.sglang_pool_oom import is_pool
from farspan.diagnosis.server_state import ServerState

_OTHERS_GIB = 2.0


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis | None:
    if sighting.was_ready or is_pool(sighting) or is_graph_state(sighting):
        return None
    if "Capture cuda graph failed" in sighting.message.text:
        return None
    if any(
        "warming up" in one.text or "Capture cuda graph failed" in one.text
        for one in situation.tracebacks.raised
    ):
        return None
    read = oom.read(sighting.match)
    others = read.others_gib
    if others is not None and others > _OTHERS_GIB:
        return Diagnosis(
            f"Out of GPU memory while starting ({read.words()}): other processes hold {others:.1f} GiB "
            f"of this GPU.",
            ("`nvidia-smi` shows who; end what is left of an earlier server",),
            Confidence.STRONG,
        )
    loading = not situation.figures.get("weights_gib") or situation.phase is StartPhase.WEIGHTS
    what = "while loading the weights: they do not fit one GPU" if loading else "while starting"
    plan = planned(situation)
    fix = plan.steps() if plan is not None else ()
    return Diagnosis(
        f"Out of GPU memory {what} ({read.words()}).",
        (
            *fix,
            "a larger --tensor-parallel-size (SGLang: --tp-size) spreads the weights; an FP8 "
            "checkpoint halves them"
            if loading
            else "lower --gpu-memory-utilization (SGLang: --mem-fraction-static), or the batch the "
            "engine warms up with",
        ),
        Confidence.LIKELY,
    )


RULE = Rule(
    id="cuda-oom-starting",
    severity=Severity.ERROR,
    needles=(oom.NEEDLE,),
    pattern=oom.PATTERN,
    explain=_explain,
    sources=("vllm-project/vllm#15105", "sgl-project/sglang#4330"),
)
