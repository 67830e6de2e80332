"""Cold and warm beside each other: what a cached prefix of known length saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from farspan.measurement.analysis.measures import group_points
from farspan.measurement.runs.result import Result


@dataclass(frozen=True, slots=True)
class SharedPoint:
    """The requests of one context and depth that share prefixes.

    Args:
        shared_tokens: The first tokens of every prompt that it has in common with the others of its group.
        cold, warm: Requests that were the first of a group, and that followed; of either those that can be trusted.
        cached_tokens: What the server found cached of the warm ones, the middle of all; None where it does not say.
        missed: Warm requests that found far less than that.
        cold_ttft_s, warm_ttft_s: Medians over those that can be trusted; None where there is none.
    """

    context: int
    depth: float
    shared_tokens: int
    cold: int
    warm: int
    cached_tokens: int | None
    missed: int
    cold_ttft_s: float | None
    warm_ttft_s: float | None

    @property
    def ratio(self) -> float | None:
        """Warm over cold TTFT; None where one is not known."""
        if self.cold_ttft_s is None or self.warm_ttft_s is None:
            return None
        return self.warm_ttft_s / self.cold_ttft_s


def list_shared(results: Sequence[Result]) -> tuple[SharedPoint, ...]:
    """Put the cold and the warm requests of every context and depth beside each other; nothing where none share."""
    groups: dict[tuple[int, float, int], list[Result]] = {}
    for point in group_points(results).values():
        for result in point:
            if result.shared_tokens:
                key = (result.context, result.depth, result.shared_tokens)
                groups.setdefault(key, []).append(result)
    return tuple(
        _sum_up(*key, group)
        for key, group in groups.items()
        if any(not result.expected_cached_tokens for result in group)  # a trace has none
    )


def _sum_up(context: int, depth: float, shared_tokens: int, results: Sequence[Result]) -> SharedPoint:
    cold = [result for result in results if not result.expected_cached_tokens and result.is_trusted]
    following = [result for result in results if result.expected_cached_tokens]
    warm = [result for result in following if result.is_trusted]
    counted = [result.cached_tokens for result in following if result.cached_tokens is not None]
    return SharedPoint(
        context=context,
        depth=depth,
        shared_tokens=shared_tokens,
        cold=len(cold),
        warm=len(warm),
        cached_tokens=round(median(counted)) if counted else None,
        missed=sum("cache-missed" in result.labels for result in following),
        cold_ttft_s=_median_ttft(cold),
        warm_ttft_s=_median_ttft(warm),
    )


def _median_ttft(results: Sequence[Result]) -> float | None:
    times = [result.ttft_s for result in results if result.ttft_s is not None]
    return median(times) if times else None
