"""How a measure is spread over requests: mean, deviation, percentiles, and which of these too few requests carry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Any

from farspan.measurement.analysis.measures import MEASURES, find_measure, list_values
from farspan.measurement.analysis.statistics import percentile, statistic
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result


@dataclass(frozen=True, slots=True)
class Spread:
    """One measure over many values.

    Args:
        count: Number of values.
        mean, deviation: Of the values; the deviation is the sample's, None for a single value.
        percentiles: By percent, interpolated linearly.
    """

    count: int
    mean: float
    deviation: float | None
    percentiles: dict[float, float]

    @property
    def few(self) -> tuple[float, ...]:
        """The percentiles that so few values do not carry: beyond them lies less than one value."""
        return tuple(p for p in self.percentiles if self.count < least_values(p))

    def as_dict(self) -> dict[str, Any]:
        """Return it with keys such as `p99`."""
        named = {f"p{percent:g}": value for percent, value in self.percentiles.items()}
        return {"count": self.count, "mean": self.mean, "std": self.deviation, **named}


def least_values(percent: float) -> int:
    """Return how many values a percentile needs for one to lie beyond it: 2 for p50, 10 for p90, 100 for p99."""
    share = min(percent, 100 - percent) / 100
    return math.ceil(round(1 / share, 6))


def spread(values: Sequence[float], percentiles: Sequence[float]) -> Spread | None:
    """Return how values are spread; None when there are none."""
    if not values:
        return None
    return Spread(
        count=len(values),
        mean=fmean(values),
        deviation=statistic(values, "std"),
        percentiles={percent: percentile(values, percent) for percent in percentiles},
    )


def list_spreads(results: Sequence[Result], percentiles: Sequence[float]) -> dict[str, Spread]:
    """Return the spread of every measure that the results have; ITL over all gaps of all requests together."""
    found = {measure.key: spread(list_values(measure, results), percentiles) for measure in MEASURES.values()}
    return {key: one for key, one in found.items() if one is not None}


def find_few(spreads: Mapping[str, Spread]) -> str:
    """Say which percentiles rest on too few values, and on how few at worst; empty when none does."""
    few: dict[float, int] = {}
    for one in spreads.values():
        for percent in one.few:
            few[percent] = min(one.count, few.get(percent, one.count))
    return "; ".join(
        f"p{percent:g} of {count} values needs {least_values(percent)}"
        for percent, count in sorted(few.items())
    )


def measure_throughput(results: Sequence[Result], *, resumed: bool) -> dict[str, float | None]:
    """Return requests and tokens a second over the measured requests, from the first one's start to the last one's
    end. None for a resumed run: the time between its starts is not the server's.
    """
    done = [r for r in results if r.phase is LoadPhase.MEASURED and r.status.answered]
    nothing: dict[str, float | None] = {
        "seconds": None, "requests_per_s": None, "output_tokens_per_s": None, "tokens_per_s": None,
    }  # fmt: skip
    if not done or resumed:
        return nothing
    starts = [datetime.fromisoformat(result.started_at).timestamp() for result in done]
    took = max(start + result.e2e_s for start, result in zip(starts, done, strict=True)) - min(starts)
    if took <= 0:
        return nothing
    output = sum(result.output_tokens or 0 for result in done)
    prompt = sum(result.prompt_tokens or 0 for result in done)
    return {
        "seconds": took,
        "requests_per_s": len(done) / took,
        "output_tokens_per_s": output / took,
        "tokens_per_s": (output + prompt) / took,
    }


def share_good(results: Sequence[Result], limits: Mapping[str, float]) -> dict[str, Any]:
    """Return how many of the measured requests were right and within every limit (`vllm bench serve --goodput`)."""
    measured = [result for result in results if result.phase is LoadPhase.MEASURED]
    good = [result for result in measured if result.status is Status.OK and _is_within(result, limits)]
    return {
        "limits_s": dict(limits),
        "good": len(good),
        "share": len(good) / len(measured) if measured else None,
    }


def _is_within(result: Result, limits: Mapping[str, float]) -> bool:
    for name, limit in limits.items():
        measure = find_measure(name)
        value = None if measure is None else measure.value(result)
        if value is None and name == "tpot":
            continue  # a single token has no time per further token
        if value is None or value > limit:
            return False
    return True
