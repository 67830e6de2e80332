"""Charts as static SVG, drawn from Vega-Lite specifications by vl-convert: nothing is fetched and the drawing itself
runs no script.

Static drawings and not a library in the page: they print, open at once, need no `eval`, and 500 requests take 300 KB
where Vega's or Plotly's own code would take one to four megabytes before the first mark. What is interactive (values
under the pointer and the arrow keys, runs switched off) is done by 100 lines of script on the finished drawing.

Colours are CSS variables of the page, so one drawing serves light, dark and paper. Only numbers and fixed words go
into a drawing, never a string from a server: runs are called a, b, c here, and the page says who they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from farspan.errors import InputError, install_command
from farspan.sizes import format_seconds, format_tokens

WIDTH, HEIGHT = 430, 260
WIDE = 980

SECONDS_LABEL = (
    "datum.value < 1 ? format(datum.value * 1000, '~g') + ' ms'"
    " : datum.value < 60 ? format(datum.value, '~g') + ' s'"
    " : datum.value < 3600 ? format(datum.value / 60, '~g') + ' min'"
    " : format(datum.value / 3600, '~g') + ' h'"
)
# Three a decade below a minute, round minutes and hours above.
_SECONDS_TICKS = (
    *(factor * 10.0**power for power in range(-5, 1) for factor in (1, 2, 5)),
    *(10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 7200.0, 18000.0, 36000.0, 86400.0),
)
_ARIA = re.compile(r' (?:role="graphics-[a-z]+"|aria-roledescription="[^"]*"|aria-hidden="true")')
_CONFIG: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "axis": {
        "aria": False,
        "labelColor": "var(--fg-soft)",
        "titleColor": "var(--fg-soft)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line-strong)",
        "tickColor": "var(--line-strong)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 400,
        "titlePadding": 10,
    },
    "view": {"stroke": None},
}


@dataclass(frozen=True, slots=True)
class LegendKey:
    """One entry of a chart's legend.

    Args:
        series: The layer it switches on and off, as `Layer.name` has it; empty for one that does not.
        text: What it is.
        colour: A CSS colour.
        shape: `dot`, `diamond`, `triangle`, `cross`, `line`, `dashes`, `dots` or `box`.
    """

    series: str
    text: str
    colour: str
    shape: str = "dot"


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with everything that goes with it.

    Args:
        anchor: A stable name for links.
        title: Its heading.
        svg: The drawing.
        alt: What it shows, in words with figures.
        caption: How to read it.
        keys: Its legend.
        columns, rows: Its data.
        more: How many rows are left out of the table.
        wide: Whether it takes the whole width.
    """

    anchor: str
    title: str
    svg: str
    alt: str
    caption: str
    keys: tuple[LegendKey, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int = 0
    wide: bool = False


def colour_of(key: str) -> str:
    """Return the colour of a run, by its key."""
    return f"var(--series-{key})"


def context_axis(contexts: Sequence[int]) -> dict[str, Any]:
    """Return a logarithmic x axis for contexts in tokens, labelled at those measured, or at decades for many."""
    low, high = min(contexts), max(contexts)
    ticks = sorted(set(contexts))
    if len(ticks) > 12:
        ticks = [f * 10**p for p in range(9) for f in (1, 2, 5) if low <= f * 10**p <= high] or [low, high]
    names = ", ".join(f"'{tick}': '{format_tokens(tick)}'" for tick in ticks)
    return {
        "field": "x",
        "type": "quantitative",
        "title": "context, tokens",
        "scale": {"type": "log", "domain": [low / 1.3, high * 1.3]},
        "axis": {"values": ticks, "labelExpr": f"({{{names}}})[datum.value]", "labelOverlap": True},
    }


def seconds_axis(values: Sequence[float], title: str) -> dict[str, Any]:
    """Return a logarithmic y axis for times in seconds."""
    low, high = min(values) / 1.5, max(values) * 1.5
    return {
        "field": "y",
        "type": "quantitative",
        "title": title,
        "scale": {"type": "log", "domain": [low, high]},
        "axis": {
            "labelExpr": SECONDS_LABEL,
            "values": [tick for tick in _SECONDS_TICKS if low <= tick <= high],
            "labelOverlap": True,
        },
    }


def count_axis(title: str) -> dict[str, Any]:
    """Return a linear y axis from 0, labelled 10k, 1M."""
    return {
        "field": "y",
        "type": "quantitative",
        "title": title,
        "scale": {"type": "linear", "zero": True},
        "axis": {"labelExpr": "format(datum.value, '~s')", "tickCount": 5},
    }


def layer(
    name: str, rows: Sequence[dict[str, Any]], mark: dict[str, Any], encoding: dict[str, Any]
) -> dict[str, Any]:
    """Return a layer whose marks have the class `NAME_marks`, dashes as underscores.

    A row's `tip` is shown under the pointer and read aloud; rows without one are hidden from both.
    """
    tipped = bool(rows) and "tip" in rows[0]
    described = {"description": {"field": "tip", "type": "nominal"}} if tipped else {}
    return {
        "name": name,
        "data": {"values": list(rows)},
        "mark": mark if tipped else mark | {"aria": False},
        "encoding": encoding | described,
    }


def draw(layers: Sequence[dict[str, Any]], *, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Draw layers over one another.

    Raises:
        InputError: The package that draws is not installed.
    """
    check_drawing()
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "width": width,
            "height": height,
            "padding": 6,
            "background": None,
            "config": _CONFIG,
            "layer": list(layers),
        }
    )
    # The page describes the drawing as a whole; a mark's own words are for the page's script.
    return _ARIA.sub("", svg).replace(' aria-label="', ' data-tip="')


def check_drawing() -> None:
    """Make sure charts can be drawn, before anything long is begun that ends in one.

    Raises:
        InputError: The package that draws them is not installed.
    """
    try:
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise InputError(
            "the package that draws charts is not installed", install_command("report")
        ) from error


def write_seconds(value: float | None) -> str:
    """Write a time for a table; empty when there is none."""
    return "" if value is None else format_seconds(value)
