"""`farspan stop`: end servers farspan has started."""

from __future__ import annotations

import json

import click

from farspan.errors import InputError

_EPILOG = """\b
Examples:
  farspan stop
  farspan stop llama-4-scout-vllm
  farspan stop --all"""


@click.command("stop", epilog=_EPILOG)
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--json", "as_json", is_flag=True, help="Print the names as JSON.")
def command(name: str | None, every: bool, as_json: bool) -> int:
    """End a server farspan has started, and everything it started; the only one without a NAME.

    A server that is gone already is forgotten. Logs stay.
    """
    from farspan.launch.serve import stop
    from farspan.launch.server_records import StateFolder

    if name and every:
        raise InputError(f"both {name} and --all are given", "give one")
    state = StateFolder()
    records = state.records() if every else [state.find(name)]
    for record in records:
        stop(record, state, on_step=None if as_json else lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({"stopped": [record.name for record in records]}))
    return 0
