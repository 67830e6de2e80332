"""All that is known of logs: what both engines share, and what each engine's package knows of its own."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from farspan.diagnosis.noise import HARMLESS, Harmless
from farspan.diagnosis.rules import RULES
from farspan.engines.logs.common_lines import COMMON_LINES
from farspan.engines.logs.line_pattern import LinePattern
from farspan.engines.logs.pattern import PatternSet
from farspan.engines.logs.rule import Rule, StateRule
from farspan.engines.registry import all_engines

# What a line nearly always contains that matters to somebody and that no rule knows.
_ALARMS = (
    r"WARNING|ERROR|CRITICAL|FATAL|Warning|Error|Exception|Traceback \(most recent call last\)|File \""
    r"|[Ee]rror:|[Ff]atal|[Ff]ailed|FAILED|Killed|Aborted|Bus error|Segmentation fault|core dumped|terminate called"
    r"|SIG[A-Z]{3,4}\b|sigquit|exit ?code|exited with|timed out|[Tt]imeout|deprecat|out of memory|During handling of"
    r"|direct cause of|Assertion|not found|cannot open|undefined symbol|[Rr]efused|[Aa]ccess fault"
    r"|free\(\): |double free|munmap_chunk|malloc|corrupted |ptxas |nvcc |nvlink |: error|Illegal "
    r"instruction|OCI runtime"
    r"|format error|make: \*\*\*|Desc Addr|descriptor"
)


class Knowledge(NamedTuple):
    """Everything a reader looks for.

    Args:
        lines: Kinds of line, the first that matches wins.
        rules: Failures one line shows.
        state_rules: Failures no single line shows.
        noise: Harmless warnings.
        patterns: All of them at once: first the lines, then the rules, then the noise, last what may matter.
    """

    lines: tuple[LinePattern, ...]
    rules: tuple[Rule, ...]
    state_rules: tuple[StateRule, ...]
    noise: tuple[Harmless, ...]
    patterns: PatternSet

    def sought(self, number: int) -> re.Pattern[str] | None:
        """The pattern of a rule or a kind of noise by its number among the patterns; None for another's."""
        number -= len(self.lines)
        if number < 0:
            return None
        if number < len(self.rules):
            return self.rules[number].pattern
        number -= len(self.rules)
        return self.noise[number].pattern if number < len(self.noise) else None


@cache
def all_rules() -> tuple[Rule | StateRule, ...]:
    """The rules of every engine, and those no engine owns."""
    return (*(rule for engine in all_engines() for rule in engine.doctor_rules()), *RULES)


@cache
def knowledge() -> Knowledge:
    """All there is, put together once."""
    lines = (*(line for engine in all_engines() for line in engine.log_patterns()), *COMMON_LINES)
    rules = tuple(rule for rule in all_rules() if isinstance(rule, Rule))
    patterns = PatternSet(
        (
            *(line.words for line in lines),
            *(rule.pattern.pattern for rule in rules),
            *(kind.pattern.pattern for kind in HARMLESS),
            _ALARMS,
        )
    )
    state_rules = tuple(rule for rule in all_rules() if isinstance(rule, StateRule))
    return Knowledge(lines, rules, state_rules, HARMLESS, patterns)
