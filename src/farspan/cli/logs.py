"""`farspan logs`: a server's log, from wherever it is."""

from __future__ import annotations

import sys

import click

from farspan.cli.output import json_option, print_json
from farspan.verbs.logs import logs

_EPILOG = """\b
Examples:
  farspan logs
  farspan logs llama-4-scout-vllm --follow
  farspan logs llama-4-scout-vllm | farspan doctor -"""


@click.command("logs", epilog=_EPILOG)
@click.argument("name", required=False)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on as the log grows, until Ctrl-C or the server's end."
)
@click.option("-n", "--lines", type=click.IntRange(min=1), help="Only the last lines.")
@json_option
def command(name: str | None, follow: bool, lines: int | None, as_json: bool) -> int:
    """Show the log of a server farspan has started; the only one's without a NAME."""
    log = logs(name, follow=follow, lines=lines)
    if as_json:
        print_json(log.to_json())
        return 0
    for piece in log.pieces():
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
    return 0
