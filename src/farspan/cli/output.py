"""What every verb prints the same way: its result as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import orjson

json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON document on standard output."
)


def print_json(value: object) -> None:
    """Print a result's `to_json()`."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
