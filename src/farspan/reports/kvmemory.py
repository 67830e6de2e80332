"""The memory of the KV cache during a run: how much was held, of how much."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from farspan.measurement.runs.result import Result
from farspan.measurement.runs.series import Reading
from farspan.reports.report_run import ReportRun
from farspan.sizes import GIB, format_bytes

# A scrape a second: the one after a request's end may still show it.
_MARGIN_S = 1.0


# Less than this share of a peak is not worth a word.
_NOTICED = 0.1


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
        before: What was held already when the first measured request began, such as prefixes of earlier runs; 0 where
            a fixed pool counts requests alone.
    """

    held: tuple[Reading, ...]
    used: tuple[Reading, ...]
    capacity: float | None
    unit: str
    basis: str
    elastic: bool
    before: float = 0.0

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
        """Say peak and capacity in a few words, and how much of the peak was there before."""
        before = self.write_before(self.before, self.peak)
        if self.capacity is None or self.unit == "share":
            return f"{self.write(self.peak)}{before}"
        if self.unit == "bytes" and self.capacity >= 10 * GIB and self.peak >= GIB:
            return f"{self.peak / GIB:.0f} of {self.capacity / GIB:.0f} GiB{before}"
        return f"{self.write(self.peak)} of {self.write(self.capacity)}{before}"

    def write_before(self, before: float, peak: float) -> str:
        """Say how much of a peak was held before; empty when it is little."""
        return f" ({self.write(before)} of it before)" if before >= _NOTICED * peak else ""


def find_kv(run: ReportRun) -> KvHeld | None:
    """Find out what the KV cache held through a run; None when the engine's metrics were not read."""
    mapped = run.readings("kv_mapped_bytes")
    if mapped:
        limits = run.readings("kv_capacity_bytes")
        capacity = max((reading.value for reading in limits), default=None)
        before = find_before(mapped, run.results)
        used = run.readings("kv_used_bytes")
        return KvHeld(mapped, used, capacity, "bytes", "the engine's metrics", True, before)
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


def find_before(held: Sequence[Reading], results: Iterable[Result]) -> float:
    """Return what was held just before the first of these requests began; 0 when nothing was read by then."""
    began = min((time for result in results if (time := read_time(result.started_at))), default=None)
    if began is None:
        return 0.0
    first = bisect_right([reading.time for reading in held], began)
    return held[first - 1].value if first else 0.0


def read_time(text: str) -> float | None:
    """Return an ISO time in seconds since the epoch; None for what is none, as in imported runs."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
