"""Tables of figures that fit a terminal: a column that has no room is left out, and said; a figure is never cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_GAP = 2
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Column:
    """A column, with its cells from top to bottom.

    Args:
        name: Its heading.
        cells: One a row.
        need: How much it is needed: those of 0 stay whatever the width, the highest goes first.
        right: Whether it is aligned to the right, as figures are.
    """

    name: str
    cells: Sequence[Text]
    need: int = 0
    right: bool = True

    @property
    def width(self) -> int:
        """Columns of the terminal it takes."""
        return max(len(self.name), *(cell.cell_len for cell in self.cells), 0)


def print_table(console: Console, columns: Sequence[Column], below: Sequence[str] = ()) -> None:
    """Print a table no wider than the console.

    Args:
        console: Where to.
        columns: Its columns, all of one length.
        below: What else belongs to each row, as words: in a last column where there is room, else below the row.
    """
    rows = len(columns[0].cells) if columns else 0
    notes = list(below) or [""] * rows
    kept = [column for column in columns if not column.need or any(cell.plain for cell in column.cells)]
    dropped: list[str] = []
    while _width(kept) > console.width and any(column.need for column in kept):
        last = max(kept, key=lambda column: column.need)
        kept.remove(last)
        if any(cell.plain not in ("", "0") for cell in last.cells):
            dropped.append(last.name)
    beside = _width(kept) + _GAP + max(map(len, notes), default=0) <= console.width
    if _width(kept) > console.width:
        _print_stacked(console, kept, notes)
        return
    if beside and any(notes):
        kept.append(Column("labels", [Text(note) for note in notes], right=False))
    table = Table(
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )
    for column in kept:
        table.add_column(column.name, justify="right" if column.right else "left", no_wrap=True)
    for row in range(rows):
        table.add_row(*(column.cells[row] for column in kept))
    console.print(table)
    if not beside:
        for row, note in enumerate(notes):
            if note:
                first = " ".join(column.cells[row].plain for column in columns[:2])
                console.print(Text(f"{first}: {note}"), soft_wrap=True)
    if dropped:
        console.print(Text(f"Not shown for lack of room: {', '.join(dropped)}.", style="dim"), soft_wrap=True)


def _width(columns: Sequence[Column]) -> int:
    # Cells are set apart by a space of padding and one of the box.
    return sum(column.width for column in columns) + _GAP * max(len(columns) - 1, 0)


def _print_stacked(console: Console, columns: Sequence[Column], notes: Sequence[str]) -> None:
    """Print each row as lines of names and figures: not even the columns that must stay fit side by side."""
    for row, note in enumerate(notes):
        words = [f"{column.name} {column.cells[row].plain}" for column in columns if column.cells[row].plain]
        line = ""
        for word in [*words, *([note] if note else [])]:
            longer = f"{line}, {word}" if line else word
            if line and len(longer) >= console.width:  # a comma follows
                console.print(Text(f"{line},"), soft_wrap=True)
                line = f"{_INDENT}{word}"
            else:
                line = longer
        console.print(Text(line), soft_wrap=True)
