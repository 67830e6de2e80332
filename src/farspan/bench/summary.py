"""A run's results by context and depth, and as one JSON document for scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from farspan.bench.advice import list_failures
from farspan.bench.measure import Result
from farspan.bench.run import BenchOutcome
from farspan.bench.trust import is_trusted


@dataclass(frozen=True, slots=True)
class Point:
    """All requests of one context and depth.

    Times are medians over the requests they can be trusted for: answered, of the right length and not
    warm. When there is none, over whatever was measured; `trusted` then is 0 and the labels say why.

    Args:
        requests: How many requests were made.
        trusted: How many of them the times are taken from.
        prompt_tokens, cached_tokens: As the server counts them; the most frequent value.
        recall: Mean score of the answered requests; None when none was answered.
        statuses: How the requests ended, by count.
        labels: Every label that any of them carries.
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


def list_points(results: Sequence[Result]) -> tuple[Point, ...]:
    """Group results by context and depth, in ascending order."""
    groups: dict[tuple[int, float], list[Result]] = {}
    for result in results:
        groups.setdefault((result.context, result.depth), []).append(result)
    return tuple(_sum_up(groups[key]) for key in sorted(groups))


def _sum_up(results: Sequence[Result]) -> Point:
    trusted = [result for result in results if is_trusted(result)]
    timed = trusted or [result for result in results if result.ttft_s is not None]
    scores = [result.score for result in results if result.score is not None]

    def middle(value: Callable[[Result], float | None]) -> float | None:
        values = [v for v in map(value, timed) if v is not None]
        return median(values) if values else None

    return Point(
        context=results[0].context,
        depth=results[0].depth,
        requests=len(results),
        trusted=len(trusted),
        prompt_tokens=_most_frequent([result.prompt_tokens for result in results]),
        cached_tokens=_most_frequent([result.cached_tokens for result in results]),
        ttft_s=middle(lambda result: result.ttft_s),
        prefill_tokens_per_s=middle(lambda result: result.prefill_tokens_per_s),
        itl_s=middle(lambda result: result.itl_s.p50 if result.itl_s else None),
        e2e_s=middle(lambda result: result.e2e_s),
        recall=fmean(scores) if scores else None,
        statuses=dict(Counter(result.status.value for result in results)),
        labels=tuple(dict.fromkeys(label for result in results for label in result.labels)),
    )


def _most_frequent(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return Counter(known).most_common(1)[0][0] if known else None


# What a script needs of a request; the rest stays in requests.jsonl.
_REQUEST_KEYS = (
    "context", "depth", "repeat", "seed", "output_asked", "status", "error", "http_status",
    "prompt_tokens", "cached_tokens", "output_tokens", "ttft_s", "itl_s", "e2e_s", "bytes_sent_s",
    "body_bytes", "prefill_tokens_per_s", "finish_reason", "score", "answer", "reply", "labels", "evidence",
)  # fmt: skip


def summarise(outcome: BenchOutcome) -> dict[str, Any]:
    """Return a bench's outcome as plain data for JSON: every request, every point, every kind of failure."""
    latest = outcome.info.starts[-1]
    requests = [{key: getattr(result, key) for key in _REQUEST_KEYS} for result in outcome.results]
    return {
        "run": str(outcome.folder),
        "good": outcome.good,
        "server": asdict(latest.server),
        **asdict(outcome.info.identity),
        "concurrency": latest.arguments.get("concurrency"),
        "failed": len(outcome.failed),
        "skipped": outcome.skipped,
        "unsent": outcome.unsent,
        "stopped": outcome.stopped,
        "failures": [asdict(failure) for failure in list_failures(outcome.results)],
        "points": [asdict(point) for point in list_points(outcome.results)],
        "requests": requests,
    }
