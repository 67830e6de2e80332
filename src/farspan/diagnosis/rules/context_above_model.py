"""The context asked for is longer than the model was made for: both engines refuse, unless told otherwise."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len \((?P<where>[^)]*?)"
    r"=?(?P<derived>\d+(?:\.\d+)?)\b"
    r"|User-specified context_length \((?P<asked2>\d+)\) is greater than the derived context_length "
    r"\((?P<derived2>\d+)\)"
)


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    match = sighting.match
    sglang = match["asked2"] is not None
    asked = int(match["asked2"] or match["asked"])
    derived = int(float(match["derived2"] or match["derived"]))
    flag, env = (
        ("--context-length", "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1")
        if sglang
        else ("--max-model-len", "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1")
    )
    started = situation.ready is not None
    cause = f"{flag} {asked:,} is longer than the {derived:,} positions the model's config allows."
    cause += (
        " The server took it; beyond that length answers are wrong or the GPU faults."
        if started
        else f" {env} would only silence the check: beyond that length answers are wrong or the GPU faults."
    )
    return Diagnosis(
        cause,
        (
            f"{flag} {derived}",
            "or a checkpoint made for more; where the model card gives RoPE scaling for it, pass that with "
            + ("--json-model-override-args" if sglang else "--hf-overrides"),
        ),
        severity=Severity.WARNING if started else Severity.ERROR,
    )


RULE = Rule(
    id="context-above-model",
    severity=Severity.ERROR,
    needles=("User-specified max_model_len", "User-specified context_length"),
    pattern=_PATTERN,
    explain=_explain,
    sources=("vllm-project/vllm#3676", "vllm-project/vllm#17924", "sglang srt/configs/model_config.py"),
)
