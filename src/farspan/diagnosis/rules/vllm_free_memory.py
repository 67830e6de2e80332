"""vLLM refuses to start: something else holds memory of the GPU."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"Free memory on device (?P<device>\S+ )?\((?P<free>\d+(?:\.\d+)?)/(?P<total>\d+(?:\.\d+)?) GiB\) on startup is "
    r"less than desired GPU memory utilization \((?P<share>[\d.]+), (?P<wanted>\d+(?:\.\d+)?) GiB\)"
)


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:  # noqa: ARG001
    match = sighting.match
    free, total, wanted = float(match["free"]), float(match["total"]), float(match["wanted"])
    share = int(free / total * 100) / 100 if total else 0.0
    cause = (
        f"vLLM wants {wanted:.1f} GiB of the GPU (--gpu-memory-utilization {match['share']}) and "
        f"{free:.1f} of "
        f"{total:.1f} GiB are free: other processes hold {total - free:.1f} GiB."
    )
    fix = ["`nvidia-smi` shows who; end what is left of an earlier server, or wait until it has gone"]
    if share >= 0.1:
        fix.append(f"or share the GPU: --gpu-memory-utilization {share:.2f}, with less KV cache")
    return Diagnosis(cause, tuple(fix))


RULE = Rule(
    id="vllm-free-memory",
    severity=Severity.ERROR,
    needles=("is less than desired GPU memory utilization",),
    pattern=_PATTERN,
    explain=_explain,
    sources=("vllm-project/vllm#20305", "vllm-project/vllm#25837"),
)
