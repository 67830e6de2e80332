"""Charts as static SVG, drawn from Vega-Lite specifications by vl-convert: no network and no script in the
page.

Colours are CSS variables of the page, so one drawing serves light and dark. Only numbers and fixed words
go into a drawing, never a string from a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farspan.bench.measure import Result
from farspan.bench.status import Status
from farspan.bench.summary import list_points
from farspan.errors import InputError
from farspan.sizes import format_tokens

_SECONDS_LABEL = (
    "datum.value < 1 ? format(datum.value * 1000, '~g') + ' ms'"
    " : datum.value < 60 ? format(datum.value, '~g') + ' s'"
    " : datum.value < 3600 ? format(datum.value / 60, '~g') + ' min'"
    " : format(datum.value / 3600, '~g') + ' h'"
)
# Three a decade below a minute, round minutes and hours above.
_SECONDS_TICKS = (
    *(factor * 10.0**power for power in range(-4, 1) for factor in (1, 2, 5)),
    *(10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 7200.0, 18000.0, 36000.0),
)
_KINDS = (
    ("right, cold", "var(--good)", "circle"),
    ("right, cold or warm unknown", "var(--accent)", "diamond"),
    ("right, warm", "var(--warn)", "triangle-up"),
    ("wrong answer or length", "var(--bad)", "cross"),
)
_CONFIG: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": "var(--fg-soft)",
        "titleColor": "var(--fg)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line-strong)",
        "tickColor": "var(--line-strong)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "titlePadding": 10,
    },
    "legend": {
        "labelColor": "var(--fg)",
        "labelFontSize": 12,
        "orient": "bottom",
        "title": None,
        "columns": 2,
    },
    "view": {"stroke": None},
}


def draw_ttft(results: Sequence[Result]) -> str:
    """Draw TTFT against context length, both logarithmic: every request a mark, a line through the medians.

    Returns:
        An SVG element; empty when no request had a first token.
    """
    rows = [
        {"context": result.context, "value": result.ttft_s, "kind": _kind(result)}
        for result in results
        if result.ttft_s and result.status.answered
    ]
    medians = [
        {"context": point.context, "value": point.ttft_s}
        for point in list_points([result for result in results if result.ttft_s and result.status.answered])
    ]
    return _draw(rows, _middle(medians), "time to first token", {"type": "log"}, _SECONDS_LABEL)


def draw_prefill_rate(results: Sequence[Result]) -> str:
    """Draw the prefill rate, prompt tokens over TTFT, against context length.

    Returns:
        An SVG element; empty when no rate is known.
    """
    known = [result for result in results if result.prefill_tokens_per_s and result.status.answered]
    rows = [
        {"context": result.context, "value": result.prefill_tokens_per_s, "kind": _kind(result)}
        for result in known
    ]
    medians = [
        {"context": point.context, "value": point.prefill_tokens_per_s} for point in list_points(known)
    ]
    scale = {"type": "linear", "zero": True}
    return _draw(rows, _middle(medians), "prefill tokens a second", scale, "format(datum.value, '~s')")


def _kind(result: Result) -> str:
    if result.status is not Status.OK:
        return _KINDS[3][0]
    if "warm" in result.labels:
        return _KINDS[2][0]
    return _KINDS[1][0] if result.cached_tokens is None else _KINDS[0][0]


def _middle(medians: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Average the medians of one context's depths, so that the line has one value a context."""
    by_context: dict[int, list[float]] = {}
    for row in medians:
        if row["value"] is not None:
            by_context.setdefault(row["context"], []).append(row["value"])
    return [{"context": c, "value": sum(values) / len(values)} for c, values in sorted(by_context.items())]


def _draw(
    rows: list[dict[str, Any]],
    middle: list[dict[str, float]],
    title: str,
    scale: dict[str, Any],
    label: str,
) -> str:
    if not rows:
        return ""
    contexts = sorted({row["context"] for row in rows})
    names = ", ".join(f"'{context}': '{format_tokens(context)}'" for context in contexts)
    values = [row["value"] for row in rows]
    ticks: dict[str, Any] = {"tickCount": 5}
    if scale["type"] == "log":
        low, high = min(values) / 1.5, max(values) * 1.5
        scale = scale | {"domain": [low, high]}
        ticks = {"values": [tick for tick in _SECONDS_TICKS if low <= tick <= high], "labelOverlap": True}
    rows = sorted(rows, key=lambda row: [kind[0] for kind in _KINDS].index(row["kind"]))  # the worst on top
    kinds = [kind for kind in _KINDS if any(row["kind"] == kind[0] for row in rows)]
    x = {
        "field": "context",
        "type": "quantitative",
        "title": "context, tokens",
        "scale": {"type": "log", "domain": [contexts[0] / 1.3, contexts[-1] * 1.3]},
        "axis": {"values": contexts, "labelExpr": f"({{{names}}})[datum.value]", "labelOverlap": True},
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "title": title,
        "scale": scale,
        "axis": {"labelExpr": label, **ticks},
    }
    by_kind = {"field": "kind", "type": "nominal"}
    names_of_kinds = [kind[0] for kind in kinds]
    marks = {
        "data": {"values": rows},
        "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.9},
        "encoding": {
            "x": x,
            "y": y,
            "color": by_kind | {"scale": {"domain": names_of_kinds, "range": [kind[1] for kind in kinds]}},
            "shape": by_kind | {"scale": {"domain": names_of_kinds, "range": [kind[2] for kind in kinds]}},
        },
    }
    line = {
        "data": {"values": middle},
        "mark": {"type": "line", "color": "var(--fg-soft)", "strokeWidth": 1.5},
        "encoding": {"x": x, "y": y},
    }
    return _to_svg(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "width": 430,
            "height": 260,
            "padding": 6,
            "background": None,
            "config": _CONFIG,
            "layer": [line, marks],
        }
    )


def check_drawing() -> None:
    """Make sure charts can be drawn, before anything long is begun that ends in one.

    Raises:
        InputError: The package that draws them is not installed.
    """
    try:
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise InputError(
            "the package that draws charts is not installed", "pip install 'farspan[report]'"
        ) from error


def _to_svg(specification: dict[str, Any]) -> str:
    check_drawing()
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(specification)
    return svg
