"""Throughput against latency: what a server does at each of several concurrencies."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from farspan.measurement.analysis.measures import MEASURES, choose_timed, list_values
from farspan.measurement.analysis.spread import Spread, measure_throughput, spread
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.engine_ttft import EngineTtft, find_engine_ttft
from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import RunInfo
from farspan.measurement.runs.series import Reading

CURVE_MEASURES = ("ttft", "tpot", "itl", "e2e")


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What a server does with so many requests of one length at a time.

    Args:
        context: Prompt tokens; None for lengths drawn from a distribution.
        concurrency: Requests under way at a time.
        requests, failed: How many were made, and how many of them failed or were wrong.
        most_at_once: The most requests that really were under way at a time.
        requests_per_s, output_tokens_per_s, tokens_per_s: Over the time from the first start to the last end; None when
            that was not within one start of the run.
        latency: The spread of TTFT, TPOT, ITL and end-to-end time over the requests that have times, by measure.
        engine_ttft: The engine's own mean TTFT beside the client's; None where its metrics do not tell.
    """

    context: int | None
    concurrency: int
    requests: int
    failed: int
    most_at_once: int
    requests_per_s: float | None
    output_tokens_per_s: float | None
    tokens_per_s: float | None
    latency: dict[str, Spread]
    engine_ttft: EngineTtft | None = None

    def to_json(self) -> dict[str, Any]:
        """It as plain data, times by their keys."""
        document = {
            name: value for name, value in asdict(self).items() if name not in ("latency", "engine_ttft")
        }
        times = {MEASURES[name].key: one.as_dict() for name, one in self.latency.items()}
        return document | times | {"engine_ttft": self.engine_ttft and self.engine_ttft.to_json()}


def list_curve(
    results: Sequence[Result],
    *,
    starts: Sequence[str],
    mixed: bool = False,
    percentiles: Sequence[float] = (50.0, 99.0),
    readings: Mapping[str, Sequence[Reading]] | None = None,
) -> tuple[CurvePoint, ...]:
    """Sum up each context at each concurrency; nothing for a run of a single concurrency.

    Args:
        results: Of the run.
        starts: When the run was started, and started again.
        mixed: Take all contexts of a concurrency together: they were sent together.
        percentiles: Which to give of every time.
        readings: What was read of the engine meanwhile, by measure.
    """
    groups: dict[tuple[int | None, int], list[Result]] = {}
    for result in results:
        if result.concurrency is not None and result.phase is LoadPhase.MEASURED:
            key = (None if mixed else result.context, result.concurrency)
            groups.setdefault(key, []).append(result)
    times = [datetime.fromisoformat(start).timestamp() for start in starts]
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] or 0, item[0][1]))
    return tuple(
        _sum_up(context, concurrency, group, times, percentiles, readings or {})
        for (context, concurrency), group in ordered
    )


def list_run_curve(
    info: RunInfo,
    results: Sequence[Result],
    percentiles: Sequence[float],
    readings: Mapping[str, Sequence[Reading]],
) -> tuple[CurvePoint, ...]:
    """Return the curve of a run, by how it was started; nothing for a run of a single concurrency.

    Args:
        info: What was run.
        results: Its requests.
        percentiles: Which to give of every time.
        readings: What was read of the engine meanwhile, by measure.
    """
    return list_curve(
        results,
        starts=[start.time for start in info.starts],
        mixed=bool(info.starts[-1].arguments.get("length_distribution")),
        percentiles=percentiles,
        readings=readings,
    )


def _sum_up(
    context: int | None,
    concurrency: int,
    results: Sequence[Result],
    starts: Sequence[float],
    percentiles: Sequence[float],
    readings: Mapping[str, Sequence[Reading]],
) -> CurvePoint:
    began = {bisect_right(starts, datetime.fromisoformat(r.started_at).timestamp()) for r in results}
    throughput = measure_throughput(results, resumed=len(began) > 1)
    timed = choose_timed(results)
    spreads = {name: spread(list_values(MEASURES[name], timed), percentiles) for name in CURVE_MEASURES}
    return CurvePoint(
        context=context,
        concurrency=concurrency,
        requests=len(results),
        failed=sum(result.status is not Status.OK for result in results),
        most_at_once=max(result.most_at_once for result in results),
        requests_per_s=throughput["requests_per_s"],
        output_tokens_per_s=throughput["output_tokens_per_s"],
        tokens_per_s=throughput["tokens_per_s"],
        latency={name: one for name, one in spreads.items() if one is not None},
        engine_ttft=find_engine_ttft(readings, results),
    )
