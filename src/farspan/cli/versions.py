"""`farspan versions`: the engine versions farspan plans."""

from __future__ import annotations

import click

from farspan.cli.output import json_option, print_json, print_lines, terminal_width
from farspan.planner.text_layout import table
from farspan.verbs.list_known import list_versions


@click.command("versions")
@json_option
def command(as_json: bool) -> None:
    """List the engine versions whose arithmetic farspan repeats line by line, the oldest first.

    The last one is what plan and serve mean where no version is named; another one is planned as the nearest with
    --accept-nearest-version.
    """
    found = list_versions()
    if as_json:
        print_json(found.to_json())
        return
    rows = [["engine", "versions"], *([name, " ".join(known)] for name, known in found.versions.items())]
    print_lines(table(rows, width=terminal_width()))
