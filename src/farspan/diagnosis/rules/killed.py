"""A process was killed from outside, most often by the host's memory limit."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"(?P<who>Worker proc \S+|Engine core proc \S+|Subprocess \S+|[Pp]rocess \S+|scheduler\S*)?.{0,60}?"
    r"(?:died unexpectedly|crashed with exit code|exit code:?|exited with code"
    r"|exitcode)[^\d-]{0,8}(?P<code>-?\d+)"
    r"|(?P<kernel>Out of memory: Killed process|OOMKilled|oom-kill)|^(?P<shell>Killed)\s*$"
)
_KILLED = ("-9", "137")


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis | None:
    match = sighting.match
    outright = match["kernel"] is not None or match["shell"] is not None
    if not outright and match["code"] not in _KILLED:
        return None
    stopped = situation.stopped
    if stopped is not None and stopped.line <= sighting.message.where.line:
        return None
    return Diagnosis(
        "A process was killed with signal 9 from outside: nothing in the engine does that while it "
        "starts or serves. "
        "Most often the host or the container ran out of main memory (loading weights, HiCache, a long "
        "prompt's text).",
        (
            "`dmesg | grep -i kill` on the host, or `docker inspect` (OOMKilled) and `kubectl describe "
            "pod`, say so",
            "give the container more memory, load from local disk instead of page cache, lower "
            "--hicache-size or --swap-space",
        ),
        Confidence.STRONG if outright else Confidence.LIKELY,
    )


RULE = Rule(
    id="killed",
    severity=Severity.ERROR,
    needles=("died unexpectedly", "exit code", "exited with", "exitcode", "Killed", "OOMKilled", "oom-kill"),
    pattern=_PATTERN,
    explain=_explain,
    sources=("vllm-project/vllm#3895", "vllm-project/vllm#20657"),
)
