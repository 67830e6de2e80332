"""Conversations turn by turn: what the server can have of each prompt, what it had, and the time that saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from farspan.measurement.analysis.measures import MEASURES, list_values
from farspan.measurement.analysis.statistics import statistic
from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result


@dataclass(frozen=True, slots=True)
class TurnPoint:
    """One turn of all conversations that began alike.

    Args:
        conversation: Tokens of their first prompts.
        depth: Where the needle of every turn lies within what the turn adds.
        turn: From 1.
        context: Tokens of this turn's prompt.
        requests, failed: How many were sent, and how many of them were not answered.
        cacheable_tokens: What the server can have of the prompt: all before this turn but the last token of the answer.
        cached_tokens: What it had; None where it does not say. Both are the middle of all.
        missed: Requests that found far less than that.
        cold_ttft_s: Median TTFT with nothing cached: of the first turn itself, else of fresh prompts of this length.
        cold: Requests that it is of.
        warm_ttft_s: Median TTFT of this turn, where the prompt before it is meant to be cached.
        warm: Requests that it is of.
    """

    conversation: int
    depth: float
    turn: int
    context: int
    requests: int
    failed: int
    cacheable_tokens: int
    cached_tokens: int | None
    missed: int
    cold_ttft_s: float | None
    cold: int
    warm_ttft_s: float | None
    warm: int

    @property
    def cacheable_share(self) -> float:
        """The part of the prompt that the server can have, 0 to 1."""
        return self.cacheable_tokens / self.context

    @property
    def ratio(self) -> float | None:
        """Warm over cold TTFT; None where one is not known."""
        if self.cold_ttft_s is None or self.warm_ttft_s is None:
            return None
        return self.warm_ttft_s / self.cold_ttft_s

    def to_json(self) -> dict[str, Any]:
        """It as plain data."""
        return asdict(self) | {"cacheable_share": self.cacheable_share, "ratio": self.ratio}


def list_turns(results: Sequence[Result]) -> tuple[TurnPoint, ...]:
    """Sum up every turn of conversations that began alike; nothing for a run without any."""
    groups: dict[tuple[int, float, int], list[Result]] = {}
    fresh: dict[tuple[int, float], list[Result]] = {}
    for result in results:
        if result.phase is not LoadPhase.MEASURED:
            continue
        if result.conversation:
            groups.setdefault((result.conversation, result.depth, result.member), []).append(result)
        elif result.is_trusted:
            fresh.setdefault((result.context, result.depth), []).append(result)
    return tuple(_sum_up(group, fresh) for _, group in sorted(groups.items(), key=lambda item: item[0]))


def _sum_up(results: Sequence[Result], fresh: dict[tuple[int, float], list[Result]]) -> TurnPoint:
    first = results[0]
    trusted = [result for result in results if result.is_trusted]
    cold = fresh.get((first.context, first.depth), []) if first.member else trusted
    warm = trusted if first.member else []
    cached = [result.cached_tokens for result in results if result.cached_tokens is not None]
    return TurnPoint(
        conversation=first.conversation,
        depth=first.depth,
        turn=first.member + 1,
        context=first.context,
        requests=len(results),
        failed=sum(not result.status.answered for result in results),
        cacheable_tokens=round(median(result.expected_cached_tokens or 0 for result in results)),
        cached_tokens=round(median(cached)) if cached else None,
        missed=sum("cache-missed" in result.labels for result in results),
        cold_ttft_s=statistic(list_values(MEASURES["ttft"], cold), "median"),
        cold=len(cold),
        warm_ttft_s=statistic(list_values(MEASURES["ttft"], warm), "median"),
        warm=len(warm),
    )
