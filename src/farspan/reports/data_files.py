"""Any report as CSV and as JSON."""

from __future__ import annotations

import csv
import io

import orjson

from farspan import __version__
from farspan.escape_terminal import printable
from farspan.reports.report_page import ReportPage

# A spreadsheet takes a cell that begins like this for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render_csv(page: ReportPage) -> str:
    """Render a report's table, of which no cell is taken for a formula; unknown values are empty."""
    columns, rows = page.csv_table()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    text = " ".join(printable(value).split())
    return f"'{text}" if text.startswith(_FORMULA) else text


def render_json(page: ReportPage) -> str:
    """Render what the page says as one JSON object: who wrote it, `title`, `good`, and its parts."""
    document = {"farspan": __version__, "title": page.title, "good": page.good, **page.json_parts()}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
