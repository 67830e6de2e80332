"""`farspan models`: the models farspan knows by name."""

from __future__ import annotations

import click

from farspan.cli.output import json_option, print_json, print_lines, terminal_width
from farspan.planner.text_layout import table
from farspan.sizes import format_tokens
from farspan.verbs.list_known import list_models


@click.command("models")
@json_option
def command(as_json: bool) -> None:
    """List the models farspan knows by name, with the engines that plan each.

    Any other model is given by its config.json, its folder, or its hub id (owner/name).
    """
    found = list_models()
    if as_json:
        print_json(found.to_json())
        return
    rows = [["name", "context", "engines", "hub id"]]
    for model in found.models:
        names = model.aliases[0] if model.aliases else model.name
        rows.append([names, format_tokens(model.longest_context), ", ".join(model.engines), model.hub_id])
    print_lines(table(rows, {1}, width=terminal_width()))
