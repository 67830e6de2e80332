"""All that is known of logs: what both engines share, and what each engine's package knows of its own."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from farspan.doctor.noise import HARMLESS, Harmless
from farspan.doctor.rules import RULES
from farspan.engines.builtin import log_grammar as builtin_lines
from farspan.engines.logs.common_lines import COMMON_LINES
from farspan.engines.logs.line_pattern import LinePattern
from farspan.engines.logs.pattern import PatternSet
from farspan.engines.logs.rule import Rule, StateRule
from farspan.engines.sglang import log_grammar as sglang_lines
from farspan.engines.sglang.rules import RULES as SGLANG_RULES
from farspan.engines.vllm import log_grammar as vllm_lines
from farspan.engines.vllm.rules import RULES as VLLM_RULES

# What a line nearly always contains that matters to somebody and that no rule knows.
_ALARMS = (
    r"WARNING|ERROR|CRITICAL|FATAL|Warning|Error|Exception|Traceback \(most recent call last\)|File \""
    r"|[Ee]rror:|[Ff]atal|[Ff]ailed|FAILED|Killed|Aborted|Bus error|Segmentation fault|core dumped|terminate called"
    r"|SIG[A-Z]{3,4}\b|sigquit|exit ?code|exited with|timed out|[Tt]imeout|deprecat|out of memory|During handling of"
    r"|direct cause of|Assertion|not found|cannot open|undefined symbol|[Rr]efused|[Aa]ccess fault"
)


class Knowledge(NamedTuple):
    """Everything a reader looks for.

    Args:
        lines: Kinds of line, the first that matches wins.
        rules: Failures one line shows.
        noise: Harmless warnings.
        patterns: All of them at once: first the lines, then the rules, then the noise, last what may matter.
    """

    lines: tuple[LinePattern, ...]
    rules: tuple[Rule, ...]
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


ALL_RULES: tuple[Rule | StateRule, ...] = (*VLLM_RULES, *SGLANG_RULES, *RULES)
LINE_RULES = tuple(rule for rule in ALL_RULES if isinstance(rule, Rule))
STATE_RULES = tuple(rule for rule in ALL_RULES if isinstance(rule, StateRule))


@cache
def knowledge() -> Knowledge:
    """All there is, put together once."""
    lines = (*vllm_lines.LINES, *sglang_lines.LINES, *builtin_lines.LINES, *COMMON_LINES)
    patterns = PatternSet(
        (
            *(line.words for line in lines),
            *(rule.pattern.pattern for rule in LINE_RULES),
            *(kind.pattern.pattern for kind in HARMLESS),
            _ALARMS,
        )
    )
    return Knowledge(lines, LINE_RULES, HARMLESS, patterns)
