"""Workers do not answer for minutes while the server serves."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_ENOUGH = 3
_ENOUGH_STARTING = 15


def is_stall(sighting: RuleMatch, situation: ServerState) -> bool:
    """Whether it is said often enough to mean a hang: workers that load or compile are silent for minutes too."""
    if sighting.was_ready:
        return sighting.count >= _ENOUGH or situation.died_itself
    return sighting.count >= _ENOUGH_STARTING and situation.ready is None


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis | None:
    if not is_stall(sighting, situation):
        return None
    return Diagnosis(
        f"Workers have not answered for a minute, {sighting.count} times: a step takes very long, or "
        f"one rank hangs and "
        "the others wait for it.",
        (
            "`py-spy dump --pid PID` of each worker shows which one hangs and where",
            "with NCCL_DEBUG=INFO the next run says which collective does not finish",
        ),
        Confidence.LIKELY,
    )


RULE = Rule(
    id="vllm-workers-stalled",
    severity=Severity.WARNING,
    needles=("No available shared memory broadcast block found",),
    pattern=re.compile(r"No available shared memory broadcast block found"),
    explain=_explain,
    sources=("vllm-project/vllm#16841", "vllm distributed/device_communicators/shm_broadcast.py"),
)
