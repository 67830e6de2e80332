"""Out of GPU memory while answering."""

from __future__ import annotations

from farspan.diagnosis import oom
from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis | None:
    if not sighting.was_ready:
        return None
    words = oom.read(sighting.match).words()
    if situation.engine == "sglang":
        fraction = situation.number("mem_fraction_static")
        lower = (
            f"--mem-fraction-static {fraction - 0.05:.2f}"
            if fraction and fraction > 0.2
            else "a lower --mem-fraction-static"
        )
        fix = (f"{lower}: leaves more for activations", "--chunked-prefill-size 4096: smaller activations")
    else:
        share = situation.number("gpu_memory_utilization") or 0.9
        fix = (
            f"--gpu-memory-utilization {max(share - 0.05, 0.1):.2f}: leaves more for activations",
            "--max-num-batched-tokens 4096: smaller activations",
        )
    return Diagnosis(
        f"Out of GPU memory while serving ({words}): activations or a workspace needed more than the start-up profile "
        "showed.",
        (*fix, "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True when much is reserved but unallocated"),
        Confidence.STRONG,
    )


RULE = Rule(
    id="cuda-oom-serving",
    severity=Severity.ERROR,
    needles=(oom.NEEDLE,),
    pattern=oom.PATTERN,
    explain=_explain,
    sources=("vllm-project/vllm#8879", "sgl-project/sglang#5372"),
)
