"""A report as one self-contained HTML page and as Markdown."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined, TemplateError
from markupsafe import Markup, escape

from farspan import __version__
from farspan.errors import InputError
from farspan.escape_terminal import printable
from farspan.reports.plan_series import PlanSeries
from farspan.reports.report_page import ReportPage
from farspan.sizes import format_bytes, format_seconds, format_tokens

_MARKDOWN = re.compile(
    r"([\\`*_\[\]<>|~&#!])|(?<=http)(:)(?=//)|(?<=https)(:)(?=//)|(?<=www)(\.)", re.IGNORECASE
)
# The colours of the page, light and dark.
_COLOURS = re.compile(r":root \{[^}]*\}|@media screen[^{]*\{\s*:root \{[^}]*\}\s*\}")
_PACKAGE = PackageLoader("farspan.reports", "templates")


def render_html(page: ReportPage, template: Path | None = None) -> str:
    """Render the page. Every string is escaped; the page forbids itself the network and every script but its own.

    Args:
        page: What it shows.
        template: A Jinja template to use instead of farspan's; it can include and extend farspan's.

    Raises:
        InputError: The template cannot be read or does not work, or the package that draws is missing.
    """
    charts = page.draw_charts()
    environment = _environment(template, autoescape=True)
    script = _PACKAGE.get_source(environment, "report.js")[0]
    style = _PACKAGE.get_source(environment, "report.css")[0]
    return _render(
        environment,
        template.name if template else f"{page.template}.html.j2",
        data=page,
        charts=[(chart, Markup(chart.svg)) for chart in charts],
        version=__version__,
        script=Markup(script),
        style=Markup(style),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def render_charts(page: ReportPage) -> dict[str, str]:
    """Render every chart as an SVG file of its own that follows the reader's light or dark scheme, by anchor.

    Raises:
        InputError: The package that draws is missing.
    """
    style = _PACKAGE.get_source(_environment(None, autoescape=True), "report.css")[0]
    colours = "".join(match.group() for match in _COLOURS.finditer(style))
    head = f"<style>{colours} svg {{ background: var(--bg) }}</style>"
    return {
        chart.anchor: chart.svg.replace(">", f">{head}<title>{escape(printable(chart.alt))}</title>", 1)
        for chart in page.draw_charts()
    }


def render_markdown(page: ReportPage, template: Path | None = None) -> str:
    """Render the report as Markdown (GitHub's dialect); everything from outside goes through the filter `md`.

    Raises:
        InputError: The template cannot be read or does not work.
    """
    environment = _environment(template, autoescape=False)
    return _render(
        environment, template.name if template else f"{page.template}.md.j2", data=page, version=__version__
    )


def write_on_one_line(text: object) -> str:
    """Return text on one line, for an indented block of code, in which Markdown has no markup."""
    return " ".join(printable(text).split())


def escape_markdown(text: object) -> str:
    """Return text on one line in which nothing is markup, a table border or a link."""
    flat = write_on_one_line(text)
    return _MARKDOWN.sub(lambda match: f"\\{match.group()}", flat)


def _render(environment: Environment, name: str, **values: object) -> str:
    try:
        return environment.get_template(name).render(**values)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f"{name}, line {line}" if line else name
        raise InputError(
            f"the template {where} does not work ({error})",
            "start from farspan's own, which docs/report.md names",
        ) from error


def _environment(template: Path | None, *, autoescape: bool) -> Environment:
    if template is not None and not template.is_file():
        raise InputError(f"{template} is not a file", "pass a Jinja template with --template")
    loaders = [FileSystemLoader(template.parent)] if template is not None else []
    environment = Environment(
        loader=ChoiceLoader([*loaders, _PACKAGE]),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "tokens": format_tokens,
        "count": _write_count,
        "number": _write_number,
        "size": _write_size,
        "change_rows": _list_changes,
        "seconds": _write_seconds,
        "rate": _write_rate,
        "percent": _write_percent,
        "clean": printable,
        "md": escape_markdown,
        "one_line": write_on_one_line,
    }
    return environment


def _write_count(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _write_number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _write_size(size: float | None) -> str:
    return "" if size is None else format_bytes(size)


def _list_changes(series: PlanSeries) -> list[tuple[str, ...]]:
    return [
        (
            change.change,
            change.costs,
            format_bytes(change.bytes_freed),
            _write_number(change.capacity_tokens or None),
            "yes" if change.fits else "",
        )
        for change in series.changes
    ]


def _write_seconds(seconds: float | None) -> str:
    return "" if seconds is None else format_seconds(seconds)


def _write_rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}"


def _write_percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}"
