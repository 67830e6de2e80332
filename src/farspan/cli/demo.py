"""`farspan demo`: prove a context end to end on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from farspan.cli.live import choose_watcher
from farspan.cli.measurement_options import depths_option
from farspan.cli.output import json_option, print_json
from farspan.cli.points import count_requests, print_failures, print_points, stdout_console
from farspan.cli.signals import terminate_like_interrupt
from farspan.errors import LaunchError
from farspan.escape_terminal import printable
from farspan.measurement.http.request_status import Status
from farspan.sizes import format_seconds, parse_token_list
from farspan.verbs.demo import demo

if TYPE_CHECKING:
    from farspan.proof.demo import DemoOutcome

EPILOG = """\b
Examples:
  farspan demo
  farspan demo --contexts 4k,256k --time-limit 600 -o demo/long

\b
Exit code: 0 every answer was right; 1 one was not, or one asked for with --contexts did not come in
time; 2 the demo could not run."""


@click.command(epilog=EPILOG)
@click.option(
    "--contexts",
    type=parse_token_list,
    metavar="SIZES",
    help="Prompt lengths in tokens.  [default: 4k, and 16k, 64k and 128k as there is time]",
)
@depths_option("0.1,0.9")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1),
    default=110.0,
    show_default=True,
    help="Seconds for everything together.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="An empty folder for all that the demo makes.  [default: demo/ and the time]",
)
@json_option
def command(
    contexts: tuple[int, ...] | None,
    depths: tuple[float, ...],
    time_limit: float,
    output: Path | None,
    as_json: bool,
) -> int:
    """Prove a context end to end on this machine, no GPU needed.

    Writes a tiny Llama 4 that can recall anything it has read, serves it with the built-in engine, sends
    it prompts of exact length with a hidden needle, checks the answers, and writes a report.
    """
    try:
        with terminate_like_interrupt(), choose_watcher(Console(stderr=True)) as watcher:
            outcome = demo(output, contexts=contexts, depths=depths, time_limit=time_limit, watcher=watcher)
    except LaunchError as error:
        _print_tail(error.tail)
        raise
    if as_json:
        print_json(outcome.to_json())
    else:
        print_points(stdout_console(), outcome.bench)
        click.echo(f"Done in {format_seconds(outcome.total_s)}. The report is {outcome.report.html}")
    _explain(outcome)
    return 0 if outcome.good else 1


def _explain(outcome: DemoOutcome) -> None:
    """Say what was not right; that there was no time for what nobody asked for is no failure."""
    bench = outcome.bench
    over = [result for result in bench.failed if result.status is Status.TIMED_OUT]
    if outcome.unsent or over:
        click.echo(
            f"farspan: {count_requests(outcome.unsent + len(over))} did not end within --time-limit; raise it or "
            "pass shorter --contexts",
            err=True,
        )
    others = tuple(result for result in bench.results if result.status is not Status.TIMED_OUT)
    print_failures(replace(bench, results=others, stopped=""), when_stopped="")
    _print_tail(outcome.server_tail)


def _print_tail(lines: tuple[str, ...]) -> None:
    if lines:
        click.echo("The server's last lines:", err=True)
    for line in lines:
        click.echo(f"  {printable(line)}", err=True)
