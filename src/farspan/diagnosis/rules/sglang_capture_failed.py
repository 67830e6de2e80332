"""SGLang could not capture its CUDA graphs."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis | None:
    why = sighting.match["why"].strip()
    if any(
        function == "init_cuda_graph_state"
        for one in situation.tracebacks.raised
        for _, function in one.frames
    ):
        return None
    if "out of memory" in why:
        fraction = situation.number("mem_fraction_static")
        lower = (
            f"--mem-fraction-static {fraction - 0.05:.2f}"
            if fraction and fraction > 0.2
            else "a lower --mem-fraction-static"
        )
        return Diagnosis(
            "There was no memory left to capture CUDA graphs: weights and KV pool took it.",
            (f"{lower}", "--max-running-requests 8 and --cuda-graph-max-bs 8: fewer and smaller graphs"),
            Confidence.CERTAIN,
        )
    return Diagnosis(
        f"Capturing CUDA graphs failed: {why[:200]}.",
        (
            "--disable-cuda-graph starts without them (decode gets slower) and shows whether they are the reason",
        ),
        Confidence.STRONG,
    )


RULE = Rule(
    id="sglang-capture-failed",
    severity=Severity.ERROR,
    needles=("Capture cuda graph failed", "Capture CUDA graph failed"),
    pattern=re.compile(r"Capture (?:cuda|CUDA) graph failed: (?P<why>.+)"),
    explain=_explain,
    sources=("sgl-project/sglang#4489", "sgl-project/sglang#5285", "sgl-project/sglang#9706"),
)
