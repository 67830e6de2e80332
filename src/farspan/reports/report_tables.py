"""The tables of a report as plain data: points from the smallest to the largest context, recall, requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, log10

from farspan.engines.logs.findings import Finding, Severity
from farspan.errors import InputError
from farspan.measurement.analysis.comparison import Comparison, Difference, Row, compare_runs
from farspan.measurement.analysis.measures import PointKey, group_points
from farspan.measurement.analysis.summary import Point, list_points
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.advice import list_failures
from farspan.measurement.runs.result import Result
from farspan.reports.kvmemory import KvHeld, find_before, find_kv, find_peak
from farspan.reports.report_run import ReportRun
from farspan.reports.series import Series
from farspan.sizes import format_seconds, format_tokens

# More contexts than this are put together by size, or the table would be as long as the list of requests.
MOST_CONTEXTS = 40
# More requests than this are left to the CSV: a page must open at once.
MOST_REQUESTS = 500
# What the engine's log may explain; the others are the model's or the client's.
_SERVER_STATUSES = (Status.SERVER_ERROR, Status.UNREACHABLE, Status.TIMED_OUT, Status.CUT, Status.REFUSED)


@dataclass(frozen=True, slots=True)
class FailureRow:
    """Requests of one point that failed alike, with what the server said and what the doctor found."""

    status: Status
    count: int
    error: str
    fix: str
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class PointRow:
    """One run's requests of one context and depth.

    Args:
        anchor: A stable name for links.
        label: The context, or the range of contexts put together.
        counted: Prompt tokens as the server counts them.
        kv: The most the KV cache held meanwhile, in words; empty when not known.
        expected_s, floor_s: The plan's TTFT; None without one for this context.
        ratio: TTFT over the first run's, in words; empty in the first run.
        sure: Whether the ratio's interval excludes 1.
    """

    anchor: str
    label: str
    run: ReportRun
    point: Point
    output_tokens: int | None
    kv: str
    expected_s: float | None
    floor_s: float | None
    ratio: str
    sure: bool
    failures: tuple[FailureRow, ...]

    @property
    def answered(self) -> bool:
        """Whether any of its requests was answered: only then can the server have counted tokens."""
        return any(Status(name).answered for name in self.point.statuses)


@dataclass(frozen=True, slots=True)
class RecallCell:
    """Recall at one depth and context: the mean score of those `checked`; None when none was."""

    recall: float | None
    checked: int
    requests: int


@dataclass(frozen=True, slots=True)
class RecallTable:
    """Recall by depth and context: `rows[i][j]` is of `depths[i]` and `labels[j]`, None where unasked."""

    run: ReportRun
    labels: tuple[str, ...]
    depths: tuple[float, ...]
    rows: tuple[tuple[RecallCell | None, ...], ...]


def group_contexts(runs: Sequence[Series]) -> dict[int, tuple[int, str]]:
    """Map every context to the one it is shown as and that one's label: itself, or of very many a range by size."""
    contexts = sorted({result.context for run in runs for result in run.results})
    if len(contexts) <= MOST_CONTEXTS:
        return {context: (context, format_tokens(context)) for context in contexts}
    return {context: _range_of(context) for context in contexts}


def _range_of(context: int) -> tuple[int, str]:
    """Return the upper end of the 1-2-5 range a context is in, and the range in words."""
    power = 10 ** floor(log10(context)) if context > 0 else 1
    low, high = next(
        (low * power, high * power)
        for low, high in ((5, 10), (2, 5), (1, 2), (0, 1))
        if context >= low * power
    )
    return high, f"{format_tokens(low) if low else 0} to {format_tokens(high)}"


def merge_contexts(results: Sequence[Result], groups: Mapping[int, tuple[int, str]]) -> list[Result]:
    """Return results under the contexts they are shown as."""
    if all(shown == context for context, (shown, _) in groups.items()):
        return list(results)
    return [replace(result, context=groups[result.context][0]) for result in results]


def list_rows(runs: Sequence[ReportRun], comparisons: Mapping[str, Comparison]) -> tuple[PointRow, ...]:
    """List every point of every run, by context, depth and run."""
    groups = group_contexts(runs)
    labels = dict(groups.values())
    rows = [row for run in runs for row in _rows_of(run, groups, labels, comparisons.get(run.key))]
    return tuple(sorted(rows, key=lambda row: (row.point.context, row.point.depth, row.run.key)))


def _rows_of(
    run: ReportRun,
    groups: Mapping[int, tuple[int, str]],
    labels: Mapping[int, str],
    comparison: Comparison | None,
) -> list[PointRow]:
    shown = merge_contexts(run.results, groups)
    grouped = group_points(shown)
    kv = find_kv(run)
    ratios = (
        {
            PointKey(row.context, row.depth, row.concurrency, row.warm): row
            for row in comparison.rows
            if row.measure == "ttft"
        }
        if comparison
        else {}
    )
    exact = all(context == group[0] for context, group in groups.items())
    rows = []
    for point in list_points(shown):
        results = grouped[point.key]
        peak = find_peak(kv.held, results) if kv else None
        planned = run.plan.times.at(point.context) if run.plan and exact and not point.warm else None
        ratio = ratios.get(point.key) if exact else None
        rows.append(
            PointRow(
                anchor=f"point-{run.key}-{point.context}-{point.depth:g}" + ("-warm" if point.warm else ""),
                label=labels[point.context] + (" warm" if point.warm else ""),
                run=run,
                point=point,
                output_tokens=_most_frequent([result.output_tokens for result in results]),
                kv=_write_peak(kv, peak, results),
                expected_s=planned.expected_s if planned else None,
                floor_s=planned.floor_s if planned else None,
                ratio=write_ratio(ratio),
                sure=ratio is not None and ratio.verdict in (Difference.HIGHER, Difference.LOWER),
                failures=explain_failures(run, results),
            )
        )
    return rows


def _write_peak(kv: KvHeld | None, peak: float | None, results: Sequence[Result]) -> str:
    """Say what the KV cache held at the most, and what of it was there before these requests."""
    if kv is None or peak is None:
        return ""
    before = kv.write_before(find_before(kv.held, results), peak) if kv.elastic else ""
    return f"{kv.write(peak)}{before}"


def explain_failures(run: ReportRun, results: Sequence[Result]) -> tuple[FailureRow, ...]:
    """Say of every kind of failure what the server answered, what to do, and what its log shows."""
    finding = worst_finding(run)
    return tuple(
        FailureRow(
            failure.status,
            failure.count,
            failure.error,
            failure.fix,
            finding if failure.status in _SERVER_STATUSES else None,
        )
        for failure in list_failures(results)
    )


def worst_finding(run: ReportRun) -> Finding | None:
    """Return the doctor's first error in a run's server log; None when there is none."""
    findings = run.log.findings if run.log else ()
    return next((finding for finding in findings if finding.severity is Severity.ERROR), None)


def write_ratio(row: Row | None) -> str:
    """Write a ratio with its interval: `5.81 (5.62 to 6.01)`; empty when there is none."""
    if row is None or row.ratio is None:
        return ""
    ratio = row.ratio
    interval = "" if ratio.low is None else f" ({ratio.low:.2f} to {ratio.high:.2f})"
    return f"{ratio.ratio:.2f}{interval}"


def write_measure(measure: str, value: float | None) -> str:
    """Write a compared value for a person; measures are those of `farspan compare`."""
    if value is None:
        return ""
    return f"{value:,.1f} tok/s" if measure.endswith("rate") else format_seconds(value)


def compare_with_first(runs: Sequence[ReportRun]) -> dict[str, Comparison]:
    """Compare every run with the first; runs without a common context are left out."""
    compared = {}
    for run in runs[1:]:
        try:
            compared[run.key] = compare_runs(runs[0].recorded, run.recorded)
        except InputError:
            continue
    return compared


def tabulate_recall(run: ReportRun, groups: Mapping[int, tuple[int, str]]) -> RecallTable | None:
    """Lay out a run's recall by depth and context; None when no answer was checked."""
    if not any(result.recall is not None for result in run.results):
        return None
    shown: dict[tuple[int, float], list[Result]] = {}
    for results in group_points(merge_contexts(run.results, groups)).values():
        shown.setdefault((results[0].context, results[0].depth), []).extend(results)
    labels = dict(groups.values())
    contexts = sorted({context for context, _ in shown})
    depths = sorted({depth for _, depth in shown})

    def cell(context: int, depth: float) -> RecallCell | None:
        results = shown.get((context, depth))
        if results is None:
            return None
        scores = [result.recall for result in results if result.recall is not None]
        return RecallCell(sum(scores) / len(scores) if scores else None, len(scores), len(results))

    rows = tuple(tuple(cell(context, depth) for context in contexts) for depth in depths)
    return RecallTable(run, tuple(labels[context] for context in contexts), tuple(depths), rows)


def choose_requests(results: Sequence[Result], most: int = MOST_REQUESTS) -> tuple[Result, ...]:
    """Choose the requests a page shows: all, or of very many the failed ones first and an even choice of the rest."""
    if len(results) <= most:
        return tuple(results)
    failed = [result for result in results if result.status is not Status.OK]
    good = [result for result in results if result.status is Status.OK]
    room = most // 2 if len(good) > most // 2 else most - len(good)
    chosen = {
        id(result) for result in (*_evenly(failed, room), *_evenly(good, most - min(room, len(failed))))
    }
    return tuple(result for result in results if id(result) in chosen)


def _evenly(results: Sequence[Result], most: int) -> list[Result]:
    if len(results) <= most:
        return list(results)
    return [results[index * len(results) // most] for index in range(most)]


def _most_frequent(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return Counter(known).most_common(1)[0][0] if known else None
