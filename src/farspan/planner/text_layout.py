"""Tables and sentences as lines for a terminal: nothing is cut, whatever its width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

# A last column narrower than this stands below its row.
_LEAST_COLUMN = 24
_INDENT = "    "
# Cells that say nothing need no line of their own.
_NOTHING = ("", "-")


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = (), *, width: int | None = None) -> list[str]:
    """Rows as aligned columns.

    Args:
        rows: The rows, the heading first.
        right: Columns aligned to the right.
        width: Columns of the terminal: the last cells are wrapped, or stand below their rows, so that nothing is
            longer. None for lines as long as they are.
    """
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned, last = set(right), len(widths) - 1
    start = sum(widths[:last]) + 2 * last
    room = None if width is None or start + widths[last] <= width else width - start
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[column]) if column in aligned else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ]
        if room is None or width is None:
            lines.append("  ".join(cells).rstrip())
        elif room >= _LEAST_COLUMN:
            first, *more = textwrap.wrap(row[last], room, break_on_hyphens=False) or [""]
            lines.append("  ".join([*cells[:last], first]).rstrip())
            lines.extend(" " * start + line for line in more)
        else:
            lines.extend(wrap("  ".join(cells[:last]).rstrip(), width))
            lines.extend(wrap(f"{_INDENT}{row[last]}", width) if row[last] not in _NOTHING else ())
    return lines


def wrap(line: str, width: int | None) -> list[str]:
    """A sentence as lines no longer than the terminal, those after the first one indented."""
    if width is None or len(line) <= width:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line, width, subsequent_indent=indent or "  ", break_long_words=False, break_on_hyphens=False
    )
