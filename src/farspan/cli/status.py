"""`farspan status`: the servers farspan has started, and how they are."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from farspan.cli.output import json_option, print_json
from farspan.launch.started_servers import ServerStatus
from farspan.planner.text_layout import table
from farspan.sizes import format_seconds, format_tokens
from farspan.verbs.status import status

_LONGEST_WHY = 160  # characters; --json has all of it

_EPILOG = """\b
Examples:
  farspan status
  farspan status llama-4-scout-vllm --json

\b
Exit code: 0 all of them are ready, or there is none; 1 one is not; 2 bad input."""


@click.command("status", epilog=_EPILOG)
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> int:
    """Show the servers farspan has started, or one of them: ready, starting, not answering, failed, or gone."""
    found = status(name)
    if as_json:
        print_json(found.to_json())
    elif not found.servers:
        click.echo("farspan has started no server.")
    else:
        for line in table(_rows(found.servers)):
            click.echo(line)
    return 0 if found.all_ready else 1


def _rows(servers: Sequence[ServerStatus]) -> list[list[str]]:
    rows = [["name", "state", "runtime", "engine", "context", "url", "since", ""]]
    for server in servers:
        record = server.record
        rows.append(
            [
                record.name,
                server.state,
                record.runtime,
                f"{record.engine} {record.version}".strip(),
                format_tokens(record.context),
                record.url or "-",
                format_seconds(max(time.time() - record.started, 0.0)),
                f"{_shortened(server.why)}; farspan stop {record.name} forgets it"
                if server.state in ("gone", "failed")
                else _shortened(server.why),
            ]
        )
    return rows


def _shortened(why: str) -> str:
    why = " ".join(why.split())
    return why if len(why) <= _LONGEST_WHY else f"{why[:_LONGEST_WHY]}..."
