"""The memory of the KV cache during a run: how much was held, of how much."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from farspan.measurement.observe.series import Reading
from farspan.measurement.runs.result import Result
from farspan.reports.report_run import ReportRun
from farspan.sizes import GIB, format_bytes

# A scrape a second: the one after a request's end may still show it.
_MARGIN_S = 1.0


@dataclass(frozen=True, slots=True)
class KvHeld:
    """The KV cache's memory through time, in bytes of one GPU, or in tokens where bytes are not known.

    Args:
        held: What the cache had taken (elastic), or what requests held of a fixed pool.
        used: Of it, pages in use; empty for a fixed pool.
        capacity: The most it may take; None when not known.
        unit: `bytes`, `tokens`, or `share` (0 to 1).
        basis: Where the capacity comes from, in words.
        elastic: Whether `held` is memory taken from the device, which grows and shrinks.
    """

    held: tuple[Reading, ...]
    used: tuple[Reading, ...]
    capacity: float | None
    unit: str
    basis: str
    elastic: bool

    @property
    def peak(self) -> float:
        """The most that was held."""
        return max(reading.value for reading in self.held)

    def write(self, value: float) -> str:
        """Write an amount in this unit for a person."""
        if self.unit == "bytes":
            return format_bytes(value)
        return f"{value:,.0f} tokens" if self.unit == "tokens" else f"{value:.0%} of the pool"

    def summary(self) -> str:
        """Say peak and capacity in a few words."""
        if self.capacity is None or self.unit == "share":
            return self.write(self.peak)
        if self.unit == "bytes" and self.capacity >= 10 * GIB and self.peak >= GIB:
            return f"{self.peak / GIB:.0f} of {self.capacity / GIB:.0f} GiB"
        return f"{self.write(self.peak)} of {self.write(self.capacity)}"


def find_kv(run: ReportRun) -> KvHeld | None:
    """Find out what the KV cache held through a run; None when the engine's metrics were not read."""
    mapped = run.readings("kv_mapped_bytes")
    if mapped:
        limits = run.readings("kv_capacity_bytes")
        capacity = max((reading.value for reading in limits), default=None)
        return KvHeld(mapped, run.readings("kv_used_bytes"), capacity, "bytes", "the engine's metrics", True)
    usage = run.readings("kv_usage")
    pool, basis = _pool_bytes(run)
    if usage and pool is not None:
        held = tuple(Reading(reading.time, reading.value * pool) for reading in usage)
        return KvHeld(held, (), pool, "bytes", basis, False)
    tokens = run.readings("kv_tokens")
    limits = run.readings("kv_capacity_tokens")
    if tokens:
        capacity = max((reading.value for reading in limits), default=None)
        return KvHeld(tokens, (), capacity, "tokens", "the engine's metrics", False)
    return KvHeld(usage, (), 1.0, "share", "the engine's metrics", False) if usage else None


def _pool_bytes(run: ReportRun) -> tuple[float | None, str]:
    figures = run.log.capacity if run.log else {}
    for name in ("available_kv_gib", "kv_pool_gib"):
        if figures.get(name):
            return figures[name] * GIB, "the server's log, of one GPU"
    if run.plan is not None and run.plan.kv_bytes:
        return run.plan.kv_bytes, "the plan, of one GPU"
    return None, ""


def find_peak(held: Sequence[Reading], results: Iterable[Result]) -> float | None:
    """Return the most that was held while any of these requests was under way; None when nothing was read then."""
    times = [reading.time for reading in held]
    most: float | None = None
    for result in results:
        began = read_time(result.started_at)
        if began is None:
            continue
        first, last = bisect_left(times, began), bisect_right(times, began + result.e2e_s + _MARGIN_S)
        for reading in held[first:last]:
            most = reading.value if most is None else max(most, reading.value)
    return most


def read_time(text: str) -> float | None:
    """Return an ISO time in seconds since the epoch; None for what is none, as in imported runs."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
