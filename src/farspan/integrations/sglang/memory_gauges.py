"""The elastic memory's figures beside SGLang's own under /metrics, when it is started with --enable-metrics.

SGLang collects what its processes leave in a folder (PROMETHEUS_MULTIPROC_DIR), so a gauge made here is served there.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

from farspan.kv.memory.segments import SegmentPool

PREFIX = "sglang:farspan_memory_"

# Name -> (what it says, which process of several is shown: the one that is nearest to its limit).
_GAUGES: dict[str, tuple[str, Literal["min", "max"]]] = {
    "held_bytes": ("Elastic memory that a process holds, the one with most.", "max"),
    "idle_bytes": ("Of it, memory that can go back at once.", "min"),
    "allowed_bytes": ("The most a process may hold as things stand, the one that may hold least.", "min"),
    "lacking_bytes": ("What requests wait for.", "max"),
    "neighbours_bytes": ("What other members of the same budget hold.", "max"),
    "budget_limit_bytes": ("What all members of the budget may hold; 0 without a limit.", "min"),
}


class MemoryGauges:
    """Gauges of one segment pool.

    Args:
        segments: The pool.
        registry: Where they are registered; prometheus_client's own when None.
    """

    def __init__(self, segments: SegmentPool, registry: Any = None) -> None:
        client = import_module("prometheus_client")
        registered = {} if registry is None else {"registry": registry}
        self._segments = segments
        self._gauges = {
            name: client.Gauge(PREFIX + name, text, multiprocess_mode=mode, **registered)
            for name, (text, mode) in _GAUGES.items()
        }

    def set(self) -> None:
        """Bring them up to date."""
        counts, budget = self._segments.statistics(), self._segments.budget
        outlook = budget.outlook if budget else None
        unit = counts.segment_bytes
        values = {
            "held_bytes": counts.created * unit,
            "idle_bytes": counts.idle * unit,
            "allowed_bytes": counts.cap * unit,
            "lacking_bytes": budget.wished * unit if budget else 0,
            "neighbours_bytes": outlook.neighbours_held if outlook else 0,
            "budget_limit_bytes": (outlook.limit or 0) if outlook else 0,
        }
        for name, value in values.items():
            self._gauges[name].set(value)


def memory_gauges(arguments: Any, segments: SegmentPool) -> MemoryGauges | None:
    """Return the gauges of a server that exports metrics, None for one that does not."""
    return MemoryGauges(segments) if getattr(arguments, "enable_metrics", False) else None
