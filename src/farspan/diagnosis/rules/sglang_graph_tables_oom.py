"""SGLang runs out of memory for the tables its CUDA graphs need: batch sizes x context x 4 bytes each."""

from __future__ import annotations

from farspan.diagnosis import oom
from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.planned_server import planned
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState
from farspan.sizes import GIB

_FEW_ROWS = 8


def is_graph_state(sighting: RuleMatch) -> bool:
    """Whether the traceback goes through the tables of CUDA graphs."""
    return sighting.raised_in("init_cuda_graph_state")


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis | None:
    if not is_graph_state(sighting):
        return None
    read = oom.read(sighting.match)
    context = situation.context
    cause = f"Out of GPU memory for the tables of CUDA graphs ({read.words()})"
    fix = [
        f"--max-running-requests {_FEW_ROWS}: shrinks these tables and the request-to-token table at once",
        f"or --cuda-graph-max-bs {_FEW_ROWS}, or --disable-cuda-graph (decode gets slower)",
    ]
    if context is not None:
        batch = round(read.wanted_gib * GIB / (context * 4))
        one = f"{read.wanted_gib:.2f} GiB"
        cause += (
            f": {one} = {batch} requests x {context:,} tokens x 4 bytes for one table, and there are several"
        )
        fix[0] += f" ({_FEW_ROWS * context * 4 / GIB:.2f} GiB each)"
    plan = planned(situation)
    steps = plan.steps() if plan is not None else ()
    return Diagnosis(
        f"{cause}. They grow with the context and are outside --mem-fraction-static.",
        (*fix, *steps),
        Confidence.CERTAIN,
    )


RULE = Rule(
    id="sglang-graph-tables-oom",
    severity=Severity.ERROR,
    needles=(oom.NEEDLE,),
    pattern=oom.PATTERN,
    explain=_explain,
    sources=(
        "sgl-project/sglang#8538",
        "observed on sglang 0.5.6.post2",
        "sglang srt/layers/attention/flashattention_backend.py: init_cuda_graph_state",
    ),
)
