"""SGLang's failures that only SGLang has."""

from __future__ import annotations

from farspan.engines.logs.rule import Rule, StateRule
from farspan.engines.sglang.rules import memory, pools, serving

RULES: tuple[Rule | StateRule, ...] = (*memory.RULES, *pools.RULES, *serving.RULES)
