"""The table that ends a bench or a demo, and the lines about what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farspan.escape_terminal import printable
from farspan.measurement.analysis.advice import list_failures
from farspan.measurement.analysis.load_curve import CurvePoint
from farspan.measurement.analysis.measures import MEASURES
from farspan.measurement.analysis.plan_beside_run import compare_with_plan, find_plan
from farspan.measurement.analysis.spread import find_few, measure_throughput, share_good
from farspan.measurement.analysis.summary import Point, list_points, list_run_curve, list_run_spreads
from farspan.measurement.options import DryRun
from farspan.measurement.runs.bench_outcome import BenchOutcome
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
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in (
        "context",
        "depth",
        *(["at once"] if any(point.concurrency is not None for point in points) else []),
        "counted",
        "cached",
        "TTFT",
        "prefill tok/s",
        "ITL p50",
        "end to end",
        "recall",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("labels")
    for point in points[:_POINT_ROWS]:
        table.add_row(*_cells(point))
    console.print(table)
    if len(points) > _POINT_ROWS:
        click.echo(f"{len(points) - _POINT_ROWS} more lengths are in the run folder.")


def print_planned(console: Console, outcome: BenchOutcome) -> None:
    """Print the plan's TTFT beside the measured one, one row for every context and depth; nothing without a plan."""
    plan = find_plan(outcome.folder, outcome.info.starts[-1].server.owned_by)
    if plan is None:
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in ("context", "depth", "TTFT planned", "floor", "measured", "measured / planned"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note")
    for point in compare_with_plan(outcome.results, plan)[:_POINT_ROWS]:
        times = [point.expected, point.floor, point.measured]
        table.add_row(
            format_tokens(point.context),
            f"{point.depth:g}",
            *("" if time is None else format_seconds(time) for time in times),
            "" if point.ratio is None else f"{point.ratio:.2f}",
            Text(point.note),
        )
    console.print(table)


def print_spreads(
    console: Console, outcome: BenchOutcome, percentiles: Sequence[float], goodput: Mapping[str, float]
) -> None:
    """Print one row for every measure over all requests that can be trusted; nothing for a single one."""
    curve = list_run_curve(outcome, percentiles)
    if curve:
        print_curve(console, curve)
        return
    spreads = list_run_spreads(outcome, percentiles)
    if max((spread.count for name, spread in spreads.items() if name != "itl_s"), default=0) > 1:
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        table.add_column("measure", no_wrap=True)
        for name in ("values", "mean", "std", *(f"p{percent:g}" for percent in percentiles)):
            table.add_column(name, justify="right", no_wrap=True)
        by_key = {measure.key: measure for measure in MEASURES.values()}
        for name, spread in spreads.items():
            measure = by_key[name]
            values = [
                measure.format(v) for v in (spread.mean, spread.deviation, *spread.percentiles.values())
            ]
            table.add_row(measure.name, str(spread.count), *values)
        console.print(table)
        few = find_few(spreads)
        if few:
            click.echo(f"few-repeats: {few}")
    throughput = measure_throughput(outcome.results, resumed=len(outcome.info.starts) > 1)
    if throughput["requests_per_s"] is not None:
        click.echo(
            f"throughput: {throughput['requests_per_s']:.3g} requests/s,"
            f" {throughput['output_tokens_per_s']:.4g} output tokens/s, {throughput['tokens_per_s']:.4g} tokens/s"
        )
    if goodput:
        within = share_good(outcome.results, goodput)
        share = "" if within["share"] is None else f" ({within['share']:.0%})"
        click.echo(f"goodput: {within['good']} requests right and within the times{share}")


def print_curve(console: Console, curve: Sequence[CurvePoint]) -> None:
    """Print throughput and latency, one row for every concurrency of every context."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    percents = next((list(one.percentiles) for point in curve for one in point.latency.values()), [])
    times = [f"{MEASURES[name].title} p{percent:g}" for name in ("ttft", "tpot") for percent in percents]
    for name in ("context", "concurrency", "requests", "requests/s", "output tokens/s", "tokens/s", *times):
        table.add_column(name, justify="right")
    for point in curve:
        rates = (point.requests_per_s, point.output_tokens_per_s, point.tokens_per_s)
        latency = [point.latency.get(name) for name in ("ttft", "tpot")]
        table.add_row(
            "mixed" if point.context is None else format_tokens(point.context),
            str(point.concurrency),
            str(point.requests) + (f", {point.failed} bad" if point.failed else ""),
            *("" if rate is None else f"{rate:,.{0 if rate >= 100 else 2}f}" for rate in rates),
            *(
                "" if one is None else format_seconds(one.percentiles[percent])
                for one in latency
                for percent in percents
            ),
        )
    console.print(table)


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
        *([] if point.concurrency is None else [Text(str(point.concurrency))]),
        Text("unknown" if point.prompt_tokens is None else f"{point.prompt_tokens:,}"),
        Text("unknown" if point.cached_tokens is None else f"{point.cached_tokens:,}"),
        Text("" if point.ttft_s is None else format_seconds(point.ttft_s)),
        Text("" if point.prefill_tokens_per_s is None else f"{point.prefill_tokens_per_s:,.0f}"),
        Text("" if point.itl_s is None else format_seconds(point.itl_s)),
        Text("" if point.e2e_s is None else format_seconds(point.e2e_s)),
        Text(recall, style="" if point.recall in (None, 1.0) else "bold red"),
        Text(status, style="bold red" if bad else "green"),
        Text(", ".join(point.labels)),
    ]
