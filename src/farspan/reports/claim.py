"""The answer of a report in words, made from nothing but the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from farspan.measurement.analysis.comparison import Comparison, Difference, Row
from farspan.measurement.analysis.spread import measure_throughput
from farspan.measurement.analysis.summary import Point, list_points
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result
from farspan.reports.kvmemory import find_kv
from farspan.reports.report_run import ReportRun
from farspan.reports.report_tables import write_measure
from farspan.reports.trust_statement import (
    Trust,
    TrustLevel,
    is_right,
    judge_cold,
    judge_length,
    judge_times,
)
from farspan.sizes import format_seconds, format_tokens

# Mean time a token over median gap: further apart than this, one of them does not tell how the answer came.
_AGREEMENT = 1.5
# What came back when an answer is right, by the bench's tasks.
_FOUND = {"needle": "needle found", "multi-needle": "every needle found", "count": "right count"}


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A figure for the top of the page, and how far it can be trusted."""

    name: str
    value: str
    note: str
    verdict: TrustLevel


def align_figures(
    columns: Sequence[Sequence[KeyFigure]],
) -> tuple[tuple[str, tuple[KeyFigure | None, ...]], ...]:
    """Put key figures side by side by name; None where a column has none of that name."""
    names = list(dict.fromkeys(figure.name for column in columns for figure in column))
    by_name = [{figure.name: figure for figure in column} for column in columns]
    return tuple((name, tuple(figures.get(name) for figures in by_name)) for name in names)


def find_proven(results: Sequence[Result]) -> int | None:
    """Return the longest context at which every request's answer was checked and right; None when there is none."""
    return _longest(results, {result.context for result in results if not is_right(result)})


def find_answered(results: Sequence[Result]) -> int | None:
    """Return the longest context at which every request was answered; None when there is none."""
    return _longest(results, {result.context for result in results if result.status is not Status.OK})


def _longest(results: Sequence[Result], without: set[int]) -> int | None:
    return max((result.context for result in results if result.context not in without), default=None)


def write_claim(run: ReportRun) -> str:
    """Say in one sentence what a run shows: what ran where, how far, how fast, and whether it was right."""
    results = run.results
    lead = ", ".join(part for part in (run.model, run.hardware(), run.engine) if part)
    if not results:
        return f"{lead}: no request has finished."
    proven = find_proven(results)
    reached = proven if proven is not None else find_answered(results)
    if reached is None:
        return f"{lead}: {write_failed(results)}."
    parts = [f"{format_tokens(reached)} tokens"]
    slowest = slowest_point(results, reached)
    if slowest is not None and slowest.ttft_s is not None:
        warm = ", warm: part of the prompt was cached" if _is_warm(slowest) else ""
        parts.append(f"first token after {format_seconds(slowest.ttft_s)}{warm}")
    if proven is not None:
        parts.append(_write_found(run, proven))
    else:
        parts.append(f"imported from {run.tool}, answers not checked" if run.tool else "answers not checked")
    kv = find_kv(run)
    if kv is not None and kv.peak > 0:
        parts.append(f"KV peak {kv.summary()}")
    text = f"{lead}: {', '.join(parts)}"
    beyond = [result for result in results if result.context > reached]
    return f"{text}; above that, {write_failed(beyond)}." if beyond else f"{text}."


def write_verdict(results: Sequence[Result]) -> str:
    """Say how many requests were right; an unchecked answer is never called right."""
    if not results:
        return "No request has finished."
    right = sum(is_right(result) for result in results)
    unchecked = sum(result.status is Status.OK and result.recall is None for result in results)
    total = len(results)
    if unchecked:
        answered = f"{unchecked + right:,} of {total:,} requests were answered"
        checked = "answers were not checked" if not right else f"{right:,} answers were checked and right"
        return f"{answered}; {checked}."
    proven = find_proven(results)
    if proven is None:
        return f"No context length was proven: {right:,} of {total:,} requests were answered correctly."
    whole = "Every request was" if right == total else f"{right:,} of {total:,} requests were"
    return f"{whole} answered correctly; contexts are proven up to {format_tokens(proven)} tokens."


def write_failed(results: Sequence[Result]) -> str:
    """Say how the requests that were not right ended: `3 of 3 requests failed (3 refused)`."""
    bad = [result for result in results if result.status is not Status.OK]
    if not bad:
        return "answers were not checked"
    kinds = Counter(result.status.value.replace("_", " ") for result in bad)
    listed = ", ".join(f"{count:,} {name}" for name, count in kinds.most_common())
    return f"{len(bad):,} of {len(results):,} requests failed ({listed})"


def write_comparison(first: ReportRun, second: ReportRun, comparison: Comparison) -> str:
    """Say how much longer or shorter one run's TTFT is than the first's at the longest context both have."""
    rows = [row for row in comparison.rows if row.measure == "ttft" and row.ratio is not None]
    if not rows:
        return f"{second.name} and {first.name} have no time at a common context that can be trusted."
    row = rows[-1]
    assert row.ratio is not None
    where = f"{format_tokens(row.context)} tokens" + (
        f", depth {row.depth:g}" if _several_depths(rows) else ""
    )
    values = f"{write_measure('ttft', row.b)} against {write_measure('ttft', row.a)}"
    if row.ratio.count > 1:  # the ratio is that of the pairs, not of the medians shown
        values = f"medians {values}, the ratio a geometric mean of {row.ratio.count} "
        values += "pairs" if row.ratio.paired else "values a side"
    times = f"takes {row.ratio.ratio:.2f} times as long as that of {first.name}"
    return f"At {where}, the first token of {second.name} {times}: {values}; {_write_sureness(row)}."


def _write_sureness(row: Row) -> str:
    ratio = row.ratio
    if row.verdict is Difference.UNKNOWN or ratio is None or ratio.low is None:
        return "one value a side, too few to tell"
    interval = f"95 % interval {ratio.low:.2f} to {ratio.high:.2f}"
    return interval if row.verdict is not Difference.OPEN else f"no difference shown, {interval}"


def _several_depths(rows: Sequence[Row]) -> bool:
    return len({row.depth for row in rows if row.context == rows[-1].context}) > 1


def choose_figures(run: ReportRun) -> tuple[KeyFigure, ...]:
    """Choose the figures for the top of the page: those of the longest proven (else answered) context."""
    results = run.results
    right, checked = sum(map(is_right, results)), sum(result.recall is not None for result in results)
    proven = find_proven(results)
    sure = TrustLevel.PROVEN if checked else TrustLevel.UNKNOWN
    of = f"{right:,} of {len(results):,}" if checked else "not checked"
    note = "complete, of exact length" if checked else "nothing was planted to look for"
    figures = [KeyFigure("Right answers", of, note, sure)]
    reached = proven if proven is not None else find_answered(results)
    if reached is None:
        return tuple(figures)
    answered = [result for result in results if result.context == reached and result.status.answered]
    length = judge_length(answered)
    name = "Proven context" if proven is not None else "Answered context"
    figures.append(KeyFigure(name, format_tokens(reached), "tokens, as the server counts", length.verdict))
    slowest = slowest_point(results, reached)
    if slowest is not None:
        together = slowest.concurrency or count_together(run)
        figures += _choose_times(slowest, judge_times(answered), judge_cold(answered), together)
        figures += _choose_throughput(run, together)
    kv = find_kv(run)
    if kv is not None and kv.peak > 0:
        what = "memory the cache had taken" if kv.elastic else "held of a fixed pool"
        basis = TrustLevel.ASSUMED if kv.basis.startswith("the plan") else TrustLevel.PROVEN
        of = f"of {kv.write(kv.capacity)}; " if kv.capacity and kv.unit != "share" else ""
        before = kv.write_before(kv.before, kv.peak)
        figures.append(KeyFigure("KV peak", kv.write(kv.peak), f"{of}{what}{before}; {kv.basis}", basis))
    return tuple(figures)


def count_together(run: ReportRun) -> int:
    """Return how many requests were sent at a time; 1 where the run does not say."""
    count = run.recorded.info.starts[-1].arguments.get("concurrency")
    return count if isinstance(count, int) and count > 0 else 1


def _choose_times(point: Point, times: Trust, cold: Trust, together: int) -> list[KeyFigure]:
    """Take the times of the slowest depth; a warm or unproven prefill makes them no better than itself.

    Among other requests the median gap hides the stalls that their prefills make, and TPOT has them: where the two
    disagree, neither is called proven.
    """
    level, among = times.verdict, ""
    if together > 1:
        among = f", {together} requests at a time"
        if level is TrustLevel.PROVEN and not _agree(point):
            level = TrustLevel.UNKNOWN
    verdict = cold.verdict if cold.verdict is TrustLevel.DOUBTFUL else level
    if verdict is TrustLevel.PROVEN and cold.verdict is TrustLevel.UNKNOWN:
        verdict = TrustLevel.UNKNOWN
    spread = "one request" if point.requests == 1 else f"median of {point.trusted or point.requests}"
    figures = []
    if point.ttft_s is not None:
        figures.append(
            KeyFigure("TTFT there", format_seconds(point.ttft_s), f"slowest depth, {spread}{among}", verdict)
        )
    if point.prefill_tokens_per_s is not None:
        rate = f"{point.prefill_tokens_per_s:,.0f} tokens/s"
        figures.append(KeyFigure("Prefill there", rate, f"prompt over TTFT{among}", verdict))
    if point.itl_s is not None:
        figures.append(
            KeyFigure("ITL there", format_seconds(point.itl_s), f"p50 between tokens{among}", level)
        )
    if point.tpot_s is not None:
        note = f"a token from the first to the last{among}"
        figures.append(KeyFigure("TPOT there", format_seconds(point.tpot_s), note, level))
    return figures


def _agree(point: Point) -> bool:
    """Whether the median gap and the mean time a token are within a factor of each other."""
    if not point.itl_s or not point.tpot_s:
        return True
    return 1 / _AGREEMENT <= point.tpot_s / point.itl_s <= _AGREEMENT


def _choose_throughput(run: ReportRun, together: int) -> list[KeyFigure]:
    """Take what the server did in all, where it had more than one request at a time."""
    if together == 1 or not all(result.started_at for result in run.results):
        return []
    rates = measure_throughput(run.results, resumed=len(run.recorded.info.starts) > 1)
    total, output, requests = rates["tokens_per_s"], rates["output_tokens_per_s"], rates["requests_per_s"]
    if total is None or output is None or requests is None:
        return []
    note = f"in and out: {output:,.1f} output tokens/s, {requests:,.3g} requests/s"
    return [KeyFigure("Throughput", f"{total:,.0f} tokens/s", note, TrustLevel.PROVEN)]


def _is_warm(point: Point) -> bool:
    """Whether the times of a point are of prompts that a cache served in part, by design or for want of cold ones."""
    return bool(point.warm) or (point.trusted == 0 and "warm" in point.labels)


def slowest_point(results: Sequence[Result], context: int) -> Point | None:
    """Return the depth with the longest TTFT at a context; None when none has one."""
    points = list_points([result for result in results if result.context == context])
    return max((p for p in points if p.ttft_s is not None), key=lambda p: p.ttft_s or 0.0, default=None)


def _write_found(run: ReportRun, context: int) -> str:
    depths = sorted({result.depth for result in run.results if result.context == context})
    found = _FOUND.get(run.recorded.info.identity.task, "answers right")
    if len(depths) == 1:
        return f"{found} at depth {depths[0]:g}"
    return f"{found} at both depths" if len(depths) == 2 else f"{found} at all {len(depths)} depths"
