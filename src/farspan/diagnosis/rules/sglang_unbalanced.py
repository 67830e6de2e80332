"""SGLang found GPUs with different free memory."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"The memory capacity is unbalanced\."
    r"(?:.*?(?:min_per_gpu_memory"
    r"|pre_model_load_memory)=(?P<least>[\d.]+).*?local_gpu_memory=(?P<here>[\d.]+))?"
)


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    match = sighting.match
    seen = ""
    if match["least"]:
        least, here = (float(match[name].rstrip(".")) for name in ("least", "here"))
        seen = f" (the fullest has {least:.1f} GiB free, this one {here:.1f})"
    return Diagnosis(
        f"Other processes hold memory on some of the GPUs{seen}: the KV pool would be sized by the fullest.",
        (
            "`nvidia-smi` shows who; end what is left of an earlier server",
            "where it is meant: SGL_DISABLE_TP_MEMORY_INBALANCE_CHECK=1 (0.5.6), later it only warns",
        ),
        severity=None if situation.died is not None else Severity.WARNING,
    )


RULE = Rule(
    id="sglang-unbalanced",
    severity=Severity.ERROR,
    needles=("The memory capacity is unbalanced",),
    pattern=_PATTERN,
    explain=_explain,
    sources=("sgl-project/sglang#1533", "sgl-project/sglang#4233"),
)
