"""The failures no engine owns. The order is that of a report's equals: the more exact first."""

from __future__ import annotations

from farspan.diagnosis.rules import gpu_memory, requests, start, table, unknown
from farspan.engines.logs.rule import Rule, StateRule

RULES: tuple[Rule | StateRule, ...] = (
    *table.RULES,
    *start.RULES,
    *gpu_memory.RULES,
    *requests.RULES,
    *unknown.RULES,
)
