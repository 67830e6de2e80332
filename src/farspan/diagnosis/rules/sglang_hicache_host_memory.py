"""HiCache wants more host memory than there is: the size is per rank."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState

_PATTERN = re.compile(
    r"Not enough host memory available\. Requesting (?P<wanted>[\d.]+) GB but only have (?P<free>[\d.]+) GB free"
)


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:
    wanted, free = float(sighting.match["wanted"]), float(sighting.match["free"])
    size = max(int(free * 0.8 / situation.tp), 1)
    return Diagnosis(
        f"HiCache wants {wanted:.0f} GB of host memory for this rank and {free:.0f} GB are free. The size is per rank: "
        f"{situation.tp} ranks take {wanted * situation.tp:,.0f} GB. It does not raise the longest request.",
        (
            f"--hicache-size {size} (GB a rank), or a lower --hicache-ratio",
            "or drop --enable-hierarchical-cache: it keeps old prefixes, nothing more",
        ),
    )


RULE = Rule(
    id="sglang-hicache-host-memory",
    severity=Severity.ERROR,
    needles=("Not enough host memory available",),
    pattern=_PATTERN,
    explain=_explain,
    sources=("sgl-project/sglang#34972", "sgl-project/sglang#8102"),
)
