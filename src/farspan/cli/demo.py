"""`farspan demo`: prove a context end to end on this machine."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from farspan.cli.live import choose_watcher
from farspan.cli.measurement_options import depths_option
from farspan.cli.output import json_option, print_json
from farspan.cli.points import print_failures, print_points, stdout_console
from farspan.cli.signals import terminate_like_interrupt
from farspan.errors import LaunchError
from farspan.escape_terminal import printable
from farspan.sizes import format_seconds, parse_token_list
from farspan.verbs.demo import demo

EPILOG = """\b
Examples:
  farspan demo
  farspan demo --contexts 4k,256k --time-limit 600 -o demo/long

\b
Exit code: 0 every answer was right; 1 one was not; 2 the demo could not run."""


@click.command(epilog=EPILOG)
@click.option(
    "--contexts",
    type=parse_token_list,
    metavar="SIZES",
    help="Prompt lengths in tokens.  [default: 4k,16k,64k, and 128k when it fits the time]",
)
@depths_option("0.1,0.9")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1),
    default=180.0,
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
    print_failures(outcome.bench, when_stopped="raise --time-limit or pass shorter --contexts")
    _print_tail(outcome.server_tail)
    return 0 if outcome.bench.good else 1


def _print_tail(lines: tuple[str, ...]) -> None:
    if lines:
        click.echo("The server's last lines:", err=True)
    for line in lines:
        click.echo(f"  {printable(line)}", err=True)
