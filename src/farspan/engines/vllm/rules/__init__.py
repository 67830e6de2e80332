"""vLLM's failures that only vLLM has."""

from __future__ import annotations

from farspan.engines.logs.rule import Rule, StateRule
from farspan.engines.vllm.rules import memory, serving, start

RULES: tuple[Rule | StateRule, ...] = (*start.RULES, *memory.RULES, *serving.RULES)
