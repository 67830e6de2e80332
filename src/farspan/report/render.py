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
from farspan.printable import printable
from farspan.report.build import ReportData, draw_charts
from farspan.sizes import format_seconds, format_tokens

_MARKDOWN = re.compile(
    r"([\\`*_\[\]<>|~&#!])|(?<=http)(:)(?=//)|(?<=https)(:)(?=//)|(?<=www)(\.)", re.IGNORECASE
)
# The colours of the page, light and dark.
_COLOURS = re.compile(r":root \{[^}]*\}|@media screen[^{]*\{\s*:root \{[^}]*\}\s*\}")
_PACKAGE = PackageLoader("farspan.report", "templates")
HTML_TEMPLATE, MARKDOWN_TEMPLATE = "report.html.j2", "report.md.j2"


def render_html(data: ReportData, template: Path | None = None) -> str:
    """Render the page. Every string is escaped; the page forbids itself the network and every script but its own.

    Args:
        data: What it shows.
        template: A Jinja template to use instead of farspan's; it can include and extend farspan's.

    Raises:
        InputError: The template cannot be read or does not work, or the package that draws is missing.
    """
    charts = draw_charts(data)
    environment = _environment(template, autoescape=True)
    script = _PACKAGE.get_source(environment, "report.js")[0]
    style = _PACKAGE.get_source(environment, "report.css")[0]
    return _render(
        environment,
        template.name if template else HTML_TEMPLATE,
        data=data,
        charts=[(chart, Markup(chart.svg)) for chart in charts],
        version=__version__,
        script=Markup(script),
        style=Markup(style),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def render_charts(data: ReportData) -> dict[str, str]:
    """Render every chart as an SVG file of its own that follows the reader's light or dark scheme, by anchor.

    Raises:
        InputError: The package that draws is missing.
    """
    style = _PACKAGE.get_source(_environment(None, autoescape=True), "report.css")[0]
    colours = "".join(match.group() for match in _COLOURS.finditer(style))
    head = f"<style>{colours} svg {{ background: var(--bg) }}</style>"
    return {
        chart.anchor: chart.svg.replace(">", f">{head}<title>{escape(printable(chart.alt))}</title>", 1)
        for chart in draw_charts(data)
    }


def render_markdown(data: ReportData, template: Path | None = None) -> str:
    """Render the report as Markdown (GitHub's dialect); everything from outside goes through the filter `md`.

    Raises:
        InputError: The template cannot be read or does not work.
    """
    environment = _environment(template, autoescape=False)
    return _render(
        environment, template.name if template else MARKDOWN_TEMPLATE, data=data, version=__version__
    )


def escape_markdown(text: object) -> str:
    """Return text on one line in which nothing is markup, a table border or a link."""
    flat = " ".join(printable(text).split())
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
