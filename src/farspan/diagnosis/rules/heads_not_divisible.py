"""The tensor-parallel size does not divide the model's attention heads."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.planned_server import spec_of
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState
from farspan.errors import InputError

_PATTERN = re.compile(
    r"Total number of attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size \((?P<tp>\d+)\)"
    r"|AssertionError: (?P<heads2>\d+) is not divisible by (?P<tp2>\d+)"
)
_MOST = 16


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    match = sighting.match
    heads, tp = int(match["heads"] or match["heads2"]), int(match["tp"] or match["tp2"])
    spec = spec_of(situation)
    sizes = [size for size in range(1, _MOST + 1) if heads % size == 0]
    if spec is not None:
        allowed = []
        for size in range(1, _MOST + 1):
            try:
                spec.check_tp(size)
            except InputError:
                continue
            allowed.append(size)
        sizes = allowed or sizes
    below = [size for size in sizes if size <= tp]
    return Diagnosis(
        f"{heads} cannot be split evenly over {tp} ranks.",
        (
            f"--tensor-parallel-size {below[-1] if below else 1} (SGLang: --tp-size); sizes that go: "
            f"{', '.join(str(size) for size in sizes)}",
            "the GPUs left over can run another replica, or pipeline parallelism",
        ),
    )


RULE = Rule(
    id="heads-not-divisible",
    severity=Severity.ERROR,
    needles=("must be divisible by tensor parallel size", " is not divisible by "),
    pattern=_PATTERN,
    explain=_explain,
    sources=("vllm-project/vllm#2652", "vllm-project/vllm#4232", "sglang srt/distributed/utils.py: divide"),
)
