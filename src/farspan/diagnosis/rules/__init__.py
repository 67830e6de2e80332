"""The failures no engine owns. The order is that of a report's equals: the more exact first."""

from __future__ import annotations

from farspan.diagnosis.rules import (
    accuracy,
    cluster,
    container,
    elastic_memory,
    gpu_memory,
    hub,
    kernels,
    requests,
    start,
    toolkit,
    unknown,
)
from farspan.engines.logs.rule import Rule, StateRule

RULES: tuple[Rule | StateRule, ...] = (
    *start.RULES,
    *hub.RULES,
    *toolkit.RULES,
    *kernels.RULES,
    *accuracy.RULES,
    *cluster.RULES,
    *container.RULES,
    *elastic_memory.RULES,
    *gpu_memory.RULES,
    *requests.RULES,
    *unknown.RULES,
)
