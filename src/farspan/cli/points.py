"""The table that ends a bench or a demo, and the lines about what failed."""

from __future__ import annotations

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farspan.bench.advice import list_failures
from farspan.bench.run import BenchOutcome
from farspan.bench.summary import Point, list_points
from farspan.printable import printable
from farspan.sizes import format_seconds, format_tokens

_PIPE_WIDTH = 150  # columns when nobody says how wide the output is


def stdout_console() -> Console:
    """Return a console on standard output that never wraps a table in a pipe to 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def print_points(console: Console, outcome: BenchOutcome) -> None:
    """Print one row for every context and depth."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in (
        "context",
        "depth",
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
    for point in list_points(outcome.results):
        table.add_row(*_cells(point))
    console.print(table)


def print_failures(outcome: BenchOutcome, *, when_stopped: str) -> None:
    """Print what failed, one line a kind, with what to do about it; and why requests were left unsent.

    Args:
        outcome: The bench.
        when_stopped: What to do about requests left unsent.
    """
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
            f"farspan: {outcome.stopped}, {outcome.unsent} requests were not sent; {when_stopped}", err=True
        )


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
