"""A run's results by context and depth, and as one JSON document for scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from farspan.measurement.analysis.load_curve import list_run_curve
from farspan.measurement.analysis.measures import MEASURES, PointKey, choose_timed, group_points, list_values
from farspan.measurement.analysis.plan_beside_run import compare_with_plan, find_plan
from farspan.measurement.analysis.spread import Spread, find_few, list_spreads, measure_throughput, share_good
from farspan.measurement.analysis.statistics import statistic
from farspan.measurement.runs.advice import list_failures
from farspan.measurement.runs.bench_outcome import BenchOutcome
from farspan.measurement.runs.engine_ttft import find_engine_ttft
from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.series import Reading, read_series


@dataclass(frozen=True, slots=True)
class Point:
    """All requests of one context, depth and concurrency, all cold or all warm by design.

    Times are medians over the requests they can be trusted for: answered, of the right length and
    cached as meant. When there is none, over whatever was measured; `trusted` then is 0 and the labels say why.

    Args:
        requests: How many requests were made.
        trusted: How many of them the times are taken from.
        prompt_tokens, cached_tokens: As the server counts them; the most frequent value.
        recall: Mean share of what was planted that came back; None where nothing was planted, or none was answered.
        statuses: How the requests ended, by count.
        labels: Every label that any of them carries.
        concurrency: How many requests they were sent among, in a run that goes through several; else None.
        expected_cached_tokens: Prompt tokens that are cached by design, the most frequent value; None where no prefix
            is shared.
        warm: Whether that is any; None likewise.
        engine_ttft_s: The engine's own TTFT of those requests it tells one by one.
        stream_late_s: By how much the client's is longer, request by request.
    """

    context: int
    depth: float
    requests: int
    trusted: int
    prompt_tokens: int | None
    cached_tokens: int | None
    ttft_s: float | None
    prefill_tokens_per_s: float | None
    itl_s: float | None
    e2e_s: float | None
    recall: float | None
    statuses: dict[str, int]
    labels: tuple[str, ...]
    concurrency: int | None = None
    tpot_s: float | None = None
    expected_cached_tokens: int | None = None
    warm: bool | None = None
    engine_ttft_s: float | None = None
    stream_late_s: float | None = None

    @property
    def key(self) -> PointKey:
        """What its requests have in common."""
        return PointKey(self.context, self.depth, self.concurrency, self.warm)


def list_points(results: Sequence[Result]) -> tuple[Point, ...]:
    """Sum up every point, in ascending order; warm-up and cool-down stay out."""
    return tuple(_sum_up(key, group) for key, group in group_points(results).items())


def _sum_up(key: PointKey, results: Sequence[Result]) -> Point:
    timed = choose_timed(results)
    scores = [result.recall for result in results if result.recall is not None]

    def middle(name: str) -> float | None:
        return statistic(list_values(MEASURES[name], timed), "median")

    return Point(
        context=key.context,
        depth=results[0].depth,
        concurrency=key.concurrency,
        expected_cached_tokens=_most_frequent([result.expected_cached_tokens for result in results]),
        warm=key.warm,
        requests=len(results),
        trusted=sum(result.is_trusted for result in results),
        prompt_tokens=_most_frequent([result.prompt_tokens for result in results]),
        cached_tokens=_most_frequent([result.cached_tokens for result in results]),
        ttft_s=middle("ttft"),
        prefill_tokens_per_s=middle("prefill_rate"),
        itl_s=middle("itl"),
        tpot_s=middle("tpot"),
        e2e_s=middle("e2e"),
        engine_ttft_s=middle("engine_ttft"),
        stream_late_s=middle("stream_late"),
        recall=fmean(scores) if scores else None,
        statuses=dict(Counter(result.status.value for result in results)),
        labels=tuple(dict.fromkeys(label for result in results for label in result.labels)),
    )


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
            if result.shared_tokens and not result.conversation:
                key = (result.context, result.depth, result.shared_tokens)
                groups.setdefault(key, []).append(result)
    return tuple(
        _sum_up_shared(*key, group)
        for key, group in groups.items()
        if any(not result.expected_cached_tokens for result in group)  # a trace has none
    )


def _sum_up_shared(context: int, depth: float, shared_tokens: int, results: Sequence[Result]) -> SharedPoint:
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
        cold_ttft_s=statistic(list_values(MEASURES["ttft"], cold), "median"),
        warm_ttft_s=statistic(list_values(MEASURES["ttft"], warm), "median"),
    )


def _most_frequent(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return Counter(known).most_common(1)[0][0] if known else None


# What a script needs of a request; the rest stays in requests.jsonl.
_REQUEST_KEYS = (
    "context", "depth", "repeat", "seed", "output_asked", "status", "error", "http_status",
    "prompt_tokens", "cached_tokens", "output_tokens", "ttft_s", "itl_s", "e2e_s", "bytes_sent_s",
    "body_bytes", "prefill_tokens_per_s", "finish_reason", "score", "answer", "reply", "labels", "evidence",
    "phase", "started_at", "prompt_id", "queue_s", "tpot_s", "decode_tokens_per_s", "connected_s", "late_s",
    "most_at_once", "client_lag_s", "concurrency", "shared_tokens", "member",
    "expected_cached_tokens", "engine_ttft_s", "stream_late_s", "first_token_held_s",
    "conversation",
)  # fmt: skip


def list_run_spreads(outcome: BenchOutcome, percentiles: Sequence[float]) -> dict[str, Spread]:
    """Return the spread of every measure over the results that can be trusted."""
    return list_spreads(choose_timed(outcome.results), percentiles)


def read_engine(outcome: BenchOutcome) -> Mapping[str, Sequence[Reading]]:
    """Return what was read of the engine while a run went on, by measure; nothing where its metrics are not there."""
    return read_series(outcome.folder).get("engine", {})


def summarise(
    outcome: BenchOutcome,
    *,
    percentiles: Sequence[float] = (50.0, 90.0, 99.0),
    goodput: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return a bench's outcome as plain data for JSON: every request, every point, every kind of failure.

    Args:
        outcome: The bench.
        percentiles: Which to report.
        goodput: Highest acceptable times in seconds, by name.
    """
    latest = outcome.info.starts[-1]
    requests = [{key: getattr(result, key) for key in _REQUEST_KEYS} for result in outcome.results]
    spreads = list_run_spreads(outcome, percentiles)
    few = find_few(spreads)
    resumed = len(outcome.info.starts) > 1
    plan = find_plan(outcome.folder, latest.server.owned_by)
    readings = read_engine(outcome)
    curve = list_run_curve(outcome.info, outcome.results, percentiles, readings)
    engine_ttft = find_engine_ttft(readings, outcome.results)
    return {
        "run": str(outcome.folder),
        "good": outcome.good,
        "server": asdict(latest.server),
        **asdict(outcome.info.identity),
        "concurrency": latest.arguments.get("concurrency"),
        "rate": latest.arguments.get("rate"),
        "failed": len(outcome.failed),
        "skipped": outcome.skipped,
        "unsent": outcome.unsent,
        "stopped": outcome.stopped,
        "trusted": sum(r.is_trusted for r in outcome.results if r.phase is LoadPhase.MEASURED),
        "faults": list(outcome.faults),
        "labels": ["few-repeats"] if few else [],
        "evidence": {"few-repeats": few} if few else {},
        "failures": [asdict(failure) for failure in list_failures(outcome.results)],
        "measures": {name: spread.as_dict() for name, spread in spreads.items()},
        "throughput": measure_throughput(outcome.results, resumed=resumed or bool(curve)),
        "curve": [point.to_json() for point in curve],
        "engine_ttft": engine_ttft and engine_ttft.to_json(),
        "shared_prefixes": [asdict(point) | {"ratio": point.ratio} for point in list_shared(outcome.results)],
        "goodput": share_good(outcome.results, goodput) if goodput else None,
        "client": {
            "loop_lag_s": asdict(outcome.loop_lag) if outcome.loop_lag else None,
            "arrival_lag_s": _worst_lag(outcome.results),
            "arrivals_timed_by": _find_clock(outcome.results),
        },
        "points": [asdict(point) for point in list_points(outcome.results)],
        "plan": None
        if plan is None
        else [asdict(point) for point in compare_with_plan(outcome.results, plan)],
        "requests": requests,
    }


def summarise_engines(outcomes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Put the summaries of several engines into one document; every request says whose it is."""
    return {
        "good": all(summary["good"] for summary in outcomes.values()),
        "engines": {
            name: {key: value for key, value in summary.items() if key != "requests"}
            for name, summary in outcomes.items()
        },
        "requests": [
            {"engine": name, **request}
            for name, summary in outcomes.items()
            for request in summary["requests"]
        ],
    }


def _worst_lag(results: Sequence[Result]) -> dict[str, float] | None:
    """Return the client's lag: the middle of the requests' medians, and the worst of their p99 and maxima."""
    lags = [result.client_lag_s for result in results if result.client_lag_s is not None]
    if not lags:
        return None
    return {
        "p50": median(lag.p50 for lag in lags),
        "p99": max(lag.p99 for lag in lags),
        "max": max(lag.max for lag in lags),
    }


def _find_clock(results: Sequence[Result]) -> str:
    stamped = [result.client_lag_s is not None for result in results if result.ttft_s is not None]
    if not stamped:
        return "nobody"
    return "the kernel" if all(stamped) else "the kernel in part" if any(stamped) else "the client"
