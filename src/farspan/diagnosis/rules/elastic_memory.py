"""Elastic memory that requests wait for, by the lines of `farspan.kv.memory.memory_log`, whichever engine it is in."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch
from farspan.engines.logs.server_state import ServerState
from farspan.sizes import format_bytes

_WAITS = compile_pattern(
    r"farspan memory: waits for (?P<lacking>[\d.]{1,8} [KMGT]?i?B): held=(?P<held>\d{1,17}) .*?by=(?P<by>\w{1,12}) "
    r"budget=(?P<budget>\S{1,60}) limit=(?P<limit>\d{1,17}|none) neighbours=(?P<count>\d{1,3}) "
    r"neighbours_held=(?P<others>\d{1,17})"
)
_LOOK = "`farspan kv status` on that machine shows who holds what, and how much of it is idle"


def _waits(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    match = rule_match.match
    name, lacking, held = match["budget"], match["lacking"], format_bytes(int(match["held"]))
    limit = "no limit" if match["limit"] == "none" else f"a limit of {format_bytes(int(match['limit']))}"
    others = (
        f"{match['count']} other{'' if match['count'] == '1' else 's'} {format_bytes(int(match['others']))}"
    )
    where = f"the budget {name}, with {limit}, has {held} here and gives {others}"
    if match["by"] == "neighbours":
        return Diagnosis(
            f"Requests wait for {lacking} that other servers of this GPU hold: {where}.",
            (
                _LOOK,
                "`farspan kv limit SIZE --server NAME` for one that holds too much: it gives back what becomes idle",
                "`farspan kv trim` has idle memory given back now",
            ),
        )
    if match["by"] == "limit":
        return Diagnosis(
            f"The budget is what makes requests wait for {lacking}: {where}.",
            (
                f"`farspan kv limit SIZE --budget {name}` raises it while the servers run",
                "fewer requests at once, or shorter ones, on one of its servers",
            ),
        )
    return Diagnosis(
        f"Requests wait for {lacking}, and the GPU has not that much free: {where}.",
        ("`nvidia-smi` shows who has the rest: programs outside the budget, weights, activations", _LOOK),
        Confidence.STRONG,
    )


WAITS = Rule(
    id="elastic-memory-waits",
    means="Requests wait for elastic memory: a neighbour holds it, or the budget that servers share is too small.",
    severity=Severity.WARNING,
    pattern=_WAITS,
    explain=_waits,
    sources=("farspan.kv.memory.memory_log",),
)

RULES = (WAITS,)
