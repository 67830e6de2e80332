"""vLLM runs out of memory in its last warm-up: the sampler's buffers are not in the memory budget."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.planned_server import planned, spec_of
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState
from farspan.sizes import GIB

_SAFE_SHARE = 0.9


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    requests = int(sighting.match["requests"])
    share = situation.number("gpu_memory_utilization")
    spec = spec_of(situation)
    cause = (
        f"The sampler's warm-up with {requests:,} dummy requests found no memory: its buffers, CUDA graphs and block "
        "tables come on top of what --gpu-memory-utilization counts"
    )
    if share is not None:
        cause += f", and {share:g} leaves too little beside it"
    cause += "."
    if spec is not None:
        logits = requests * spec.vocab_size * 4 / GIB
        cause += f" One copy of the logits alone takes {logits:.2f} GiB."
    fix: list[str] = []
    if share is None or share > _SAFE_SHARE:
        fix.append(f"--gpu-memory-utilization {_SAFE_SHARE:.2f}")
    fewer = 8 if requests > 8 else 1
    fix.append(
        f"--max-num-seqs {fewer}: for long contexts a handful of requests at once is all that fits anyway"
    )
    plan = planned(situation)
    if plan is not None and plan.longest:
        fix.append(
            f"the planner expects {plan.longest:,} tokens of context to fit with the arguments as they are"
        )
    return Diagnosis(cause, tuple(fix))


RULE = Rule(
    id="vllm-sampler-warmup-oom",
    severity=Severity.ERROR,
    needles=("when warming up sampler", "when warming up pooler"),
    pattern=re.compile(
        r"CUDA out of memory occurred when warming up (?:sampler|pooler).*? (?P<requests>\d+) dummy"
    ),
    explain=_explain,
    sources=("vllm-project/vllm#14452", "vllm-project/vllm#27508", "vllm v1/worker/gpu_model_runner.py"),
)
