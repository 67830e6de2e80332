"""`farspan status`: the servers farspan has started, and how they are."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click

from farspan.planner.text_layout import table
from farspan.sizes import format_seconds, format_tokens

_EPILOG = """\b
Examples:
  farspan status
  farspan status llama-4-scout-vllm --json

\b
Exit code: 0 all of them are ready, or there is none; 1 one is not; 2 bad input."""


@click.command("status", epilog=_EPILOG)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> int:
    """Show the servers farspan has started, or one of them: ready, starting, not answering, or gone."""
    from farspan.launch.serve import look_up
    from farspan.launch.server_records import StateFolder

    state = StateFolder()
    records = [state.find(name)] if name else state.records()
    found = [look_up(record) for record in records]
    if as_json:
        click.echo(
            json.dumps(
                [{**asdict(one.record), "state": one.state, "why": one.why} for one in found], indent=2
            )
        )
    elif not found:
        click.echo("farspan has started no server.")
    else:
        rows = [["name", "state", "runtime", "engine", "context", "url", "since", ""]]
        for one in found:
            record = one.record
            rows.append(
                [
                    record.name,
                    one.state,
                    record.runtime,
                    f"{record.engine} {record.version}".strip(),
                    format_tokens(record.context),
                    record.url or "-",
                    format_seconds(max(time.time() - record.started, 0.0)),
                    f"{one.why}; farspan stop {record.name} forgets it" if one.state == "gone" else one.why,
                ]
            )
        for line in table(rows):
            click.echo(line)
    return 0 if all(one.state == "ready" for one in found) else 1
