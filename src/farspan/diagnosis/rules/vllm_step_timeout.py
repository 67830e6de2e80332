"""One step of the engine took longer than vLLM waits for its workers."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    method = sighting.match["method"]
    batch = situation.number("max_num_batched_tokens")
    cause = (
        f"A worker did not finish {method} within VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS (300 s): one step hung, or one "
        "prefill chunk at the far end of a very long prompt takes that long."
    )
    fix = [
        "look for the first error of a worker above: when one rank dies or hangs in NCCL, the others wait",
        "set VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS=1800 where steps are really that long",
    ]
    if batch is None or batch > 2048:
        fix.append("--max-num-batched-tokens 2048 makes each step shorter")
    return Diagnosis(cause, tuple(fix), Confidence.LIKELY)


RULE = Rule(
    id="vllm-step-timeout",
    severity=Severity.ERROR,
    needles=("RPC call to ",),
    pattern=re.compile(r"RPC call to (?P<method>\w+) timed out"),
    explain=_explain,
    sources=("vllm-project/vllm#17965", "vllm-project/vllm#37250"),
)
