from __future__ import annotations

from farspan.engines.logs.findings import Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch
from farspan.engines.logs.server_state import ServerState


def _explain(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    context = server_state.args["ctx"]
    return Diagnosis(
        f"The pool of a server of {context:,} tokens ran full with {rule_match.match['held']} of them.",
        ("--lean: gives the reserve to the pool",),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        id="toy-pool-full",
        means="The toy's pool ran full.",
        severity=Severity.ERROR,
        pattern=compile_pattern(r"toy pool is full: (?P<held>\d+) tokens"),
        explain=_explain,
        sources=("toy: pool",),
    ),
)
