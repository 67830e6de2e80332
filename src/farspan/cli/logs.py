"""`farspan logs`: a server's log, from wherever it is."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from farspan.errors import InputError

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
@click.option("--json", "as_json", is_flag=True, help="Print where the log is, as JSON.")
def command(name: str | None, follow: bool, lines: int | None, as_json: bool) -> int:
    """Show the log of a server farspan has started; the only one's without a NAME."""
    import json

    from farspan.launch.local import read_tail
    from farspan.launch.runtimes.process import is_alive
    from farspan.launch.serve import log_argv
    from farspan.launch.server_records import StateFolder

    record = StateFolder().find(name)
    argv = log_argv(record, follow=follow, lines=lines)
    if as_json:
        click.echo(json.dumps({"name": record.name, "log": record.log, "argv": list(argv)}, indent=2))
        return 0
    if argv:
        try:
            return subprocess.run(argv, check=False).returncode
        except FileNotFoundError:
            raise InputError(f"{argv[0]} is not on PATH", f"its copy so far is {record.log}") from None
    log = Path(record.log)
    if not log.exists():
        raise InputError(f"{log} is not there", "the server has written nothing, or the file was removed")
    if lines:
        for line in read_tail(log, lines):
            click.echo(line)
    with log.open("rb") as file:
        if lines:
            file.seek(0, 2)
        while True:
            data = file.read(2**20)
            if data:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            elif follow and is_alive(record):
                time.sleep(0.2)
            else:
                return 0
