"""A run folder as one self-contained HTML page and as Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from farspan import __version__
from farspan.bench.runs import load_run
from farspan.errors import InputError
from farspan.printable import printable
from farspan.report.charts import check_drawing, draw_prefill_rate, draw_ttft
from farspan.report.tables import ReportData, build_report
from farspan.sizes import format_seconds, format_tokens

_MARKDOWN = re.compile(
    r"([\\`*_\[\]<>|~&#!])|(?<=http)(:)(?=//)|(?<=https)(:)(?=//)|(?<=www)(\.)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report was written."""

    html: Path
    markdown: Path


def write_report(run: Path, out: Path | None = None) -> ReportFiles:
    """Write `report.html` and `report.md` of a run folder.

    Args:
        run: A folder that `farspan bench` or `farspan demo` wrote.
        out: The folder to write to, made when missing; None writes into the run folder.

    Raises:
        InputError: The folder is not a run, the report cannot be written, or the package that draws is
            missing.
    """
    check_drawing()
    data = build_report(load_run(run))
    folder = out or run
    files = ReportFiles(folder / "report.html", folder / "report.md")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.html.write_text(render_html(data), encoding="utf-8")
        files.markdown.write_text(render_markdown(data), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error})", "pass another folder with -o") from error
    return files


def render_html(data: ReportData) -> str:
    """Render the page. Every string is escaped, and the page forbids itself scripts and the network."""
    charts = [
        ("Time to first token", Markup(draw_ttft(data.results))),
        ("Prefill rate", Markup(draw_prefill_rate(data.results))),
    ]
    template = _environment(autoescape=True).get_template("report.html.j2")
    return template.render(data=data, charts=[c for c in charts if c[1]], version=__version__)


def render_markdown(data: ReportData) -> str:
    """Render the report as Markdown (GitHub's dialect)."""
    template = _environment(autoescape=False).get_template("report.md.j2")
    return template.render(data=data, version=__version__)


def escape_markdown(text: object) -> str:
    """Return text on one line in which nothing is markup, a table border or a link."""
    flat = " ".join(printable(text).split())
    return _MARKDOWN.sub(lambda match: f"\\{match.group()}", flat)


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("farspan.report", "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "tokens": format_tokens,
        "count": _write_count,
        "seconds": _write_seconds,
        "rate": _write_rate,
        "percent": _write_percent,
        "clean": printable,
        "md": escape_markdown,
    }
    return environment


def _write_count(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _write_seconds(seconds: float | None) -> str:
    return "" if seconds is None else format_seconds(seconds)


def _write_rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}"


def _write_percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}"
