"""What every verb prints the same way: its result as JSON."""

from __future__ import annotations

import contextlib
import shlex
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
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    except orjson.JSONEncodeError:  # numbers of more than 64 bits, or halves of characters
        import json

        text = json.dumps(value, indent=2).encode()
    click.echo(text)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines until there are no more, or the reader closes the pipe, as head does: it has all it wanted, and the
    verb ends with its own exit code."""
    with contextlib.suppress(BrokenPipeError):
        for line in lines:
            click.echo(line)


def terminal_width() -> int | None:
    """Columns of the terminal; None for a file or a pipe, which gets whole lines."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrap_command(command: str, width: int) -> str:
    """A shell command on lines no longer than a terminal where its words allow, ready to paste: each option begins a
    line, or stays on the line of the one before, with its value."""
    groups: list[str] = []
    for word in shlex.split(command):
        quoted = shlex.quote(word)
        if groups and not word.startswith("-"):
            groups[-1] += f" {quoted}"
        else:
            groups.append(quoted)
    lines = [""]
    for group in groups:
        longer = f"{lines[-1]} {group}" if lines[-1].strip() else f"{lines[-1]}{group}"
        if lines[-1].strip() and len(longer) > width - 2:
            lines.append(f"    {group}")
        else:
            lines[-1] = longer
    return " \\\n".join(lines)
