"""vLLM refused a prompt longer than --max-model-len."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"maximum context length is (?P<most>\d+) tokens\.?(?:.*?(?:requested|has|contains at least) (?P<asked>\d+))?"
)


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:  # noqa: ARG001
    most, asked = int(sighting.match["most"]), sighting.match["asked"]
    more = f" One asked for {int(asked):,}." if asked else ""
    return Diagnosis(
        f"Requests longer than the {most:,} tokens the server takes (prompt and answer together) were refused with "
        f"400.{more}",
        (
            "shorten the prompt or max_tokens",
            "or a larger --max-model-len: `farspan plan MODEL --engine vllm --find context` says how far it can go",
        ),
    )


RULE = Rule(
    id="prompt-too-long",
    severity=Severity.WARNING,
    needles=("maximum context length is ",),
    pattern=_PATTERN,
    explain=_explain,
    sources=("vllm entrypoints/openai/serving_engine.py", "ruipeterpan/specreason#4"),
)
