"""`farspan stop`: end servers farspan has started."""

from __future__ import annotations

import click

from farspan.cli.output import json_option, print_json
from farspan.verbs.stop import stop

_EPILOG = """\b
Examples:
  farspan stop
  farspan stop llama-4-scout-vllm
  farspan stop --all"""


@click.command("stop", epilog=_EPILOG)
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="All of them.")
@json_option
def command(name: str | None, every: bool, as_json: bool) -> int:
    """End a server farspan has started, and everything it started; the only one without a NAME.

    A server that is gone already is forgotten. Logs stay.
    """
    stopped = stop(name, every=every, on_step=None if as_json else lambda line: click.echo(line, err=True))
    if as_json:
        print_json(stopped.to_json())
    return 0
