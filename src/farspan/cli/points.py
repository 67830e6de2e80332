"""The table that ends a bench or a demo, and the lines about what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.text import Text

from farspan.cli.fitted_table import Column, print_table
from farspan.escape_terminal import printable
from farspan.measurement.analysis.load_curve import CurvePoint, list_run_curve
from farspan.measurement.analysis.measures import MEASURES
from farspan.measurement.analysis.plan_beside_run import compare_with_plan, find_plan
from farspan.measurement.analysis.spread import find_few, measure_throughput, share_good
from farspan.measurement.analysis.summary import (
    Point,
    SharedPoint,
    list_points,
    list_run_spreads,
    list_shared,
    read_engine,
)
from farspan.measurement.options import DryRun
from farspan.measurement.runs.advice import list_failures
from farspan.measurement.runs.bench_outcome import BenchOutcome
from farspan.measurement.runs.engine_ttft import find_engine_ttft
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.series import Reading
from farspan.measurement.turns import TurnPoint, list_turns
from farspan.sizes import format_seconds, format_tokens

_POINT_ROWS = 40
_PIPE_WIDTH = 150  # columns when nobody says how wide the output is


def stdout_console() -> Console:
    """Return a console on standard output that never wraps a table in a pipe to 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def print_points(console: Console, outcome: BenchOutcome) -> None:
    """Print one row for every context and depth."""
    points = list_points(outcome.results)
    shown = points[:_POINT_ROWS]
    if shown:
        cells = list(zip(*(_cells(point) for point in shown), strict=True))
        columns = [
            Column(name, column, need, right=name != "status")
            for (name, need), column in zip(_COLUMNS, cells, strict=True)
            if name not in _OPTIONAL_COLUMNS or any(cell.plain for cell in column)
        ]
        print_table(console, columns, [", ".join(point.labels) for point in shown])
    if len(points) > _POINT_ROWS:
        click.echo(f"{len(points) - _POINT_ROWS} more are in the run folder.")


def print_shared(console: Console, outcome: BenchOutcome) -> None:
    """Print cold and warm TTFT beside each other; nothing for a run in which no prefix is shared."""
    points = list_shared(outcome.results)[:_POINT_ROWS]
    if not points:
        return

    print_table(
        console,
        [
            Column("context", [Text(format_tokens(point.context)) for point in points]),
            Column("depth", [Text(f"{point.depth:g}") for point in points], need=2),
            Column("shared", _tokens([point.shared_tokens for point in points])),
            *_cold_and_warm(points),
        ],
        [f"cache-missed: {point.missed} requests" if point.missed else "" for point in points],
    )


def print_turns(console: Console, outcome: BenchOutcome) -> None:
    """Print cold and warm TTFT of every turn beside each other; nothing for a run without conversations."""
    points = list_turns(outcome.results)[:_POINT_ROWS]
    if not points:
        return

    print_table(
        console,
        [
            Column("begins with", [Text(format_tokens(point.conversation)) for point in points], need=1),
            Column("depth", [Text(f"{point.depth:g}") for point in points], need=3),
            Column("turn", _tokens([point.turn for point in points])),
            Column("prompt", _tokens([point.context for point in points])),
            Column("cacheable", [Text(f"{p.cacheable_tokens:,} ({p.cacheable_share:.1%})") for p in points]),
            *_cold_and_warm(points),
        ],
        [
            ", ".join(
                f"{name}: {count_requests(count)}"
                for name, count in (("failed", point.failed), ("cache-missed", point.missed))
                if count
            )
            for point in points
        ],
    )


def _cold_and_warm(points: Sequence[SharedPoint] | Sequence[TurnPoint]) -> list[Column]:
    """Return the columns that put cold and warm beside each other."""
    return [
        Column("cached", _tokens([point.cached_tokens for point in points])),
        Column("TTFT cold", [_seconds(point.cold_ttft_s) for point in points]),
        Column("of", _tokens([point.cold for point in points]), need=3),
        Column("TTFT warm", [_seconds(point.warm_ttft_s) for point in points]),
        Column("of ", _tokens([point.warm for point in points]), need=3),
        Column("warm / cold", [Text("" if p.ratio is None else f"{p.ratio:.3g}") for p in points], need=1),
    ]


def _tokens(values: Sequence[int | None]) -> list[Text]:
    return [Text("unknown" if value is None else f"{value:,}") for value in values]


def print_planned(console: Console, outcome: BenchOutcome) -> None:
    """Print the plan's TTFT beside the measured one, one row for every context and depth; nothing without a plan."""
    plan = find_plan(outcome.folder, outcome.info.starts[-1].server.owned_by)
    if plan is None:
        return
    points = compare_with_plan(outcome.results, plan)[:_POINT_ROWS]
    if not points:
        return
    print_table(
        console,
        [
            Column("context", [Text(format_tokens(point.context)) for point in points]),
            Column("depth", [Text(f"{point.depth:g}") for point in points]),
            Column("TTFT planned", [_seconds(point.expected) for point in points]),
            Column("floor", [_seconds(point.floor) for point in points], need=1),
            Column("measured", [_seconds(point.measured) for point in points]),
            Column(
                "measured / planned",
                [Text("" if point.ratio is None else f"{point.ratio:.2f}") for point in points],
            ),
        ],
        [point.note for point in points],
    )


def print_spreads(
    console: Console, outcome: BenchOutcome, percentiles: Sequence[float], goodput: Mapping[str, float]
) -> None:
    """Print one row for every measure over all requests that can be trusted; nothing for a single one."""
    readings = read_engine(outcome)
    curve = list_run_curve(outcome.info, outcome.results, percentiles, readings)
    if curve:
        print_curve(console, curve)
        return
    spreads = list_run_spreads(outcome, percentiles)
    if max((spread.count for name, spread in spreads.items() if name != "itl_s"), default=0) > 1:
        by_key = {measure.key: measure for measure in MEASURES.values()}
        rows = [
            (by_key[name], spread, [spread.mean, spread.deviation, *spread.percentiles.values()])
            for name, spread in spreads.items()
        ]
        names = ("mean", "std", *(f"p{percent:g}" for percent in percentiles))
        columns = [
            Column("measure", [Text(measure.name) for measure, _, _ in rows], right=False),
            Column("values", [Text(str(spread.count)) for _, spread, _ in rows], need=3),
        ]
        for number, name in enumerate(names):
            figures = [Text(measure.format(values[number])) for measure, _, values in rows]
            columns.append(Column(name, figures, need={"std": 2, "mean": 1}.get(name, 0)))
        print_table(console, columns)
        few = find_few(spreads)
        if few:
            click.echo(f"few-repeats: {few}")
    throughput = measure_throughput(outcome.results, resumed=len(outcome.info.starts) > 1)
    if throughput["requests_per_s"] is not None:
        click.echo(
            f"throughput: {throughput['requests_per_s']:,.3g} requests/s,"
            f" {throughput['output_tokens_per_s']:,.1f} output tokens/s,"
            f" {throughput['tokens_per_s']:,.0f} tokens/s in all"
        )
    _print_engine_ttft(outcome.results, readings)
    if goodput:
        within = share_good(outcome.results, goodput)
        share = "" if within["share"] is None else f" ({within['share']:.0%})"
        click.echo(f"goodput: {within['good']} requests right and within the times{share}")


def _print_engine_ttft(results: Sequence[Result], readings: Mapping[str, Sequence[Reading]]) -> None:
    """Print the engine's own mean TTFT, where it is not in the table request by request."""
    if len(results) < 2 or all(result.engine_ttft_s is not None for result in results):
        return
    found = find_engine_ttft(readings, results)
    if found is None:
        return
    beside = (
        "; they are not exactly ours"
        if found.late_s is None
        else (
            f", the client's {format_seconds(found.client_mean_s or 0.0)}: late by {format_seconds(found.late_s)}"
        )
    )
    click.echo(
        f"engine's own TTFT: a mean of {format_seconds(found.mean_s)} over {count_requests(found.requests)}{beside}"
    )


def print_curve(console: Console, curve: Sequence[CurvePoint]) -> None:
    """Print throughput and latency, one row for every concurrency of every context."""
    percents = next((list(one.percentiles) for point in curve for one in point.latency.values()), [])

    def rate(value: float | None) -> Text:
        return Text("" if value is None else f"{value:,.{0 if value >= 100 else 2}f}")

    def percentile(point: CurvePoint, name: str, percent: float) -> Text:
        latency = point.latency.get(name)
        return _seconds(None if latency is None else latency.percentiles[percent])

    columns = [
        Column("context", [Text("mixed" if p.context is None else format_tokens(p.context)) for p in curve]),
        Column("concurrency", [Text(str(point.concurrency)) for point in curve]),
        Column(
            "requests",
            [Text(f"{p.requests}{f', {p.failed} bad' if p.failed else ''}") for p in curve],
            need=0 if any(point.failed for point in curve) else 2,
        ),
        Column("requests/s", [rate(point.requests_per_s) for point in curve], need=3),
        Column("output tokens/s", [rate(point.output_tokens_per_s) for point in curve]),
        Column("tokens/s", [rate(point.tokens_per_s) for point in curve], need=1),
    ]
    for name in ("ttft", "tpot"):
        for number, percent in enumerate(percents):
            figures = [percentile(point, name, percent) for point in curve]
            columns.append(
                Column(f"{MEASURES[name].title} p{percent:g}", figures, need=number + 3 if number else 0)
            )
    engines = [point.engine_ttft for point in curve]
    if any(engines):
        means = [_seconds(None if engine is None else engine.mean_s) for engine in engines]
        late = [_seconds(None if engine is None else engine.late_s) for engine in engines]
        columns += [
            Column("engine TTFT mean", means, need=2),
            Column("client's late by", late, need=2),
        ]
    print_table(console, columns)


def print_dry_run(plan: DryRun) -> None:
    """Print what a bench would send."""
    around = plan.requests - plan.measured
    beside = f", {around} of them to warm up and cool down" if around else ""
    click.echo(
        f"{count_requests(plan.requests)}{beside}; {plan.prompt_tokens:,} prompt tokens, "
        f"at most {plan.output_tokens:,} output tokens"
    )
    if plan.last_leaves_s is not None:
        click.echo(f"the last one leaves after {format_seconds(plan.last_leaves_s)}")
    for context, count in list(plan.by_context.items())[:_POINT_ROWS]:
        click.echo(f"  {count} x {format_tokens(int(context))}")
    first = ", ".join(format_tokens(job.context) for job in plan.first)
    click.echo(
        f"in this order (with seed 0 unless given): {first}{', ...' if plan.requests > len(plan.first) else ''}"
    )


def print_failures(outcome: BenchOutcome, *, when_stopped: str) -> None:
    """Print what could not be observed; what failed, one line a kind, with what to do about it; and why requests were
    left unsent.

    Args:
        outcome: The bench.
        when_stopped: What to do about requests left unsent.
    """
    for fault in outcome.faults:
        click.echo(printable(f"Note: {fault}."), err=True)
    failures = list_failures(outcome.results)
    if len(failures) == 1 and failures[0].count == len(outcome.results) > 1:
        failure = failures[0]
        same = f"{failure.status}: {failure.error}; {failure.fix}"
        click.echo(printable(f"farspan: all {failure.count} requests failed alike: {same}"), err=True)
    else:
        for failure in failures:
            click.echo(printable(f"farspan: {failure}"), err=True)
    if outcome.stopped:
        click.echo(
            f"farspan: {outcome.stopped}, {count_requests(outcome.unsent)} not sent; {when_stopped}", err=True
        )


def count_requests(count: int) -> str:
    """Write a number of requests."""
    return f"{count:,} {'request' if count == 1 else 'requests'}"


# The columns of a point, and how much each is needed (see `Column`).
_COLUMNS = (
    ("context", 0),
    ("depth", 0),
    ("at once", 0),
    ("counted", 3),
    ("cached", 5),
    ("expected", 0),
    ("TTFT", 0),
    ("engine TTFT", 1),
    ("late by", 1),
    ("prefill tokens/s", 0),
    ("ITL p50", 1),
    ("TPOT", 2),
    ("end to end", 4),
    ("recall", 0),
    ("status", 0),
)

_OPTIONAL_COLUMNS = frozenset(("at once", "expected", "engine TTFT", "late by", "recall"))


def _seconds(value: float | None) -> Text:
    return Text("" if value is None else format_seconds(value))


def _cells(point: Point) -> list[Text]:
    bad = set(point.statuses) - {"ok"}
    status = ", ".join(
        name if count == 1 and len(point.statuses) == 1 else f"{count} {name}"
        for name, count in point.statuses.items()
    )
    recall = "" if point.recall is None else f"{point.recall:.0%}"
    return [
        Text(format_tokens(point.context)),
        Text(f"{point.depth:g}"),
        Text("" if point.concurrency is None else str(point.concurrency)),
        Text("unknown" if point.prompt_tokens is None else f"{point.prompt_tokens:,}"),
        Text("unknown" if point.cached_tokens is None else f"{point.cached_tokens:,}"),
        Text("" if point.expected_cached_tokens is None else f"{point.expected_cached_tokens:,}"),
        _seconds(point.ttft_s),
        _seconds(point.engine_ttft_s),
        _seconds(point.stream_late_s),
        Text("" if point.prefill_tokens_per_s is None else f"{point.prefill_tokens_per_s:,.0f}"),
        _seconds(point.itl_s),
        _seconds(point.tpot_s),
        _seconds(point.e2e_s),
        Text(recall, style="" if point.recall in (None, 1.0) else "bold red"),
        Text(status, style="bold red" if bad else "green"),
    ]
