"""The page of a rehearsal: a claim, tables, lists and the command, ready to be written in any format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from farspan.reports.drawing import Chart
from farspan.reports.report_page import ReportPage


@dataclass(frozen=True, slots=True)
class RehearsalTable:
    """A table under a heading.

    Args:
        anchor: Its name in links.
        heading: What it is of.
        columns: Names of its columns.
        rows: Cells in words.
        caption: What a reader must know of it; may be empty.
    """

    anchor: str
    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class RehearsalList:
    """Sentences under a heading."""

    anchor: str
    heading: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RehearsalPage(ReportPage):
    """All that the page shows.

    Args:
        title: Its heading.
        good: Whether the engine started and answered.
        claim: What was shown, in a sentence.
        note: How, in a sentence.
        tables: What was measured.
        lists: What to know before believing it.
        command: What started the engine.
        parts: The same for programs.
    """

    template: ClassVar[str] = "rehearsal"
    title: str
    good: bool
    claim: str
    note: str
    tables: tuple[RehearsalTable, ...]
    lists: tuple[RehearsalList, ...]
    command: str
    parts: Mapping[str, Any]

    def draw_charts(self) -> list[Chart]:
        """Draw nothing: a rehearsal has a handful of figures."""
        return []

    def csv_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Return every table's rows, the table's heading first."""
        width = max((len(table.columns) for table in self.tables), default=0)
        columns = ("table", *(f"column {number}" for number in range(1, width + 1)))
        return columns, ((table.heading, *row) for table in self.tables for row in table.rows)

    def json_parts(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rehearsal."""
        return {"rehearsals": [dict(self.parts)]}
