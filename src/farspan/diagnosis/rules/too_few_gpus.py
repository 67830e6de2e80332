"""More ranks than GPUs."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"(?:World size|Tensor parallel size) \((?P<ranks>\d+)\) (?:is larger than|cannot be larger than"
    r"|exceeds) .{0,40}"
    r"available GPUs \((?P<gpus>\d+)\)"
    r"|local_world_size \((?P<ranks2>\d+)\) must be less than or equal to the number of visible devices "
    r"\((?P<gpus2>\d+)\)"
    r"|invalid device ordinal"
)


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    match = sighting.match
    ranks, gpus = match["ranks"] or match["ranks2"], match["gpus"] or match["gpus2"]
    if ranks is None:
        return Diagnosis(
            f"A rank asked for a GPU that is not there (tensor parallel {situation.tp}).",
            (
                "as many GPUs as --tensor-parallel-size: docker --gpus all, nvidia.com/gpu, "
                "CUDA_VISIBLE_DEVICES",
            ),
        )
    return Diagnosis(
        f"{ranks} ranks were asked for and {gpus} GPUs are visible here.",
        (
            f"--tensor-parallel-size {gpus} (SGLang: --tp-size), if the model fits, or show the "
            f"container more GPUs: --gpus all",
            "over several nodes: --distributed-executor-backend ray (vLLM), --nnodes and --node-rank "
            "(SGLang)",
        ),
    )


RULE = Rule(
    id="too-few-gpus",
    severity=Severity.ERROR,
    needles=("available GPUs (", "number of visible devices (", "invalid device ordinal"),
    pattern=_PATTERN,
    explain=_explain,
    sources=("vllm-project/vllm#29447", "vllm-project/vllm#30140", "vllm config/parallel.py"),
)
