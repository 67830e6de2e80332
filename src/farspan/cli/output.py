"""What every verb prints the same way: its result as JSON."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click
import orjson

json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON document on standard output."
)


def print_json(value: object) -> None:
    """Print a result's `to_json()`. JSON is UTF-8, whatever the terminal's own encoding."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines until there are no more, or the reader closes the pipe, as head does: it has all it wanted, and the
    verb ends with its own exit code."""
    with contextlib.suppress(BrokenPipeError):
        for line in lines:
            click.echo(line)


def terminal_width() -> int | None:
    """Columns of the terminal; None for a file or a pipe, which gets whole lines."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
