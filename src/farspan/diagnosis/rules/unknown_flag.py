"""The engine does not know a flag: misspelt, of another version, or of the other engine."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.rules.vllm_entrypoint_doubled import RULE as ENTRYPOINT
from farspan.diagnosis.server_state import ServerState

_GONE = {
    "--calculate-kv-scales": "gone from vLLM 0.29: drop it",
    "--hybrid-kvcache-ratio": "of SGLang 0.4.9 to 0.5.9; later hybrid pools are on by default: use "
    "--swa-full-tokens-ratio",
    "--swap-space": "gone from vLLM: drop it",
    "--disable-log-requests": "gone from vLLM: requests are not logged unless --enable-log-requests is given",
    "--use-v2-block-manager": "gone from vLLM: drop it",
    "--num-scheduler-steps": "gone from vLLM: drop it",
    "--context-length": "SGLang's; vLLM's is --max-model-len",
    "--mem-fraction-static": "SGLang's; vLLM's is --gpu-memory-utilization",
    "--max-running-requests": "SGLang's; vLLM's is --max-num-seqs",
    "--max-model-len": "vLLM's; SGLang's is --context-length",
    "--gpu-memory-utilization": "vLLM's; SGLang's is --mem-fraction-static",
    "--max-num-seqs": "vLLM's; SGLang's is --max-running-requests",
}


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis | None:  # noqa: ARG001
    if ENTRYPOINT.pattern.search(sighting.message.text):
        return None
    words = sighting.match["words"].split()
    flags = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("-")]
    known = tuple(f"{flag} is {_GONE[flag]}" for flag in flags if flag in _GONE)
    named = ", ".join(flags[:5] or words[:3])
    return Diagnosis(
        f"The engine does not know {named} and ended with code 2.",
        known
        or (
            "compare with `vllm serve --help=all` or `python -m sglang.launch_server --help` of this "
            "very version",
        ),
        Confidence.CERTAIN,
    )


RULE = Rule(
    id="unknown-flag",
    severity=Severity.ERROR,
    needles=("error: unrecognized arguments: ",),
    pattern=re.compile(r"error: unrecognized arguments: (?P<words>\S.*)"),
    explain=_explain,
    sources=("vllm-project/vllm#27389", "vllm-project/recipes#20"),
)
