"""Charts of a measure against context length: TTFT, prefill rate, ITL; with the plan and the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median
from typing import Any

from farspan.measurement.analysis.statistics import percentile
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result
from farspan.reports.drawing import (
    Chart,
    LegendKey,
    colour_of,
    context_axis,
    count_axis,
    draw,
    layer,
    seconds_axis,
    write_seconds,
)
from farspan.reports.report_tables import group_contexts, merge_contexts
from farspan.reports.series import Series
from farspan.sizes import format_seconds, format_tokens

# More marks than this of one run are drawn as the range of the middle 80 % instead.
MOST_MARKS = 500
MOST_TABLE_ROWS = 500
# How a request's circumstances are shown: what they are called, shape in the drawing, shape in the legend.
_KINDS = {
    "cold": ("cold", "circle", "dot"),
    "unknown": ("cold or warm not known", "diamond", "diamond"),
    "warm": ("warm: served from a cache in part", "triangle-up", "triangle"),
    "wrong": ("wrong answer or length", "cross", "cross"),
}


@dataclass(frozen=True, slots=True)
class Curve:
    """What a chart shows.

    Args:
        anchor, title, axis: Its name, heading and y axis title.
        value: A request's value; None where it has none.
        is_time: Seconds on a logarithmic axis; otherwise a rate on a linear one.
        caption: How to read it.
        expected, floor: From a run's plan: context to value.
    """

    anchor: str
    title: str
    axis: str
    value: Callable[[Result], float | None]
    is_time: bool
    caption: str
    expected: Callable[[Series], Mapping[int, float]]
    floor: Callable[[Series], Mapping[int, float]]

    def write(self, value: float) -> str:
        """Write a value for a person."""
        return format_seconds(value) if self.is_time else f"{value:,.0f} tokens/s"


def _expected_ttft(series: Series) -> dict[int, float]:
    return {c: row.expected_s for c, row in series.plan.times.times.items()} if series.plan else {}


def _floor_ttft(series: Series) -> dict[int, float]:
    rows = series.plan.times.times if series.plan else {}
    return {c: row.floor_s for c, row in rows.items() if row.floor_s is not None}


def _as_rate(times: Mapping[int, float]) -> dict[int, float]:
    return {context: context / seconds for context, seconds in times.items() if seconds > 0}


CURVES = (
    Curve(
        "ttft",
        "Time to first token",
        "time to first token",
        lambda result: result.ttft_s,
        True,
        "From before the request is sent to its first token. Both axes are logarithmic.",
        _expected_ttft,
        _floor_ttft,
    ),
    Curve(
        "prefill",
        "Prefill rate",
        "prefill, tokens a second",
        lambda result: result.prefill_tokens_per_s,
        False,
        "Prompt tokens over TTFT less the queue time where the server tells it.",
        lambda series: _as_rate(_expected_ttft(series)),
        lambda series: _as_rate(_floor_ttft(series)),
    ),
    Curve(
        "itl",
        "Time between tokens",
        "p50 of the gaps between tokens",
        lambda result: result.itl_s.p50 if result.itl_s else None,
        True,
        "The median gap between tokens of each request. Both axes are logarithmic.",
        lambda series: series.plan.itl_s if series.plan else {},
        lambda _: {},
    ),
)


@dataclass(slots=True)
class _CurveParts:
    """What one run adds to a chart."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    values: list[float] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)
    medians: list[tuple[int, float]] = field(default_factory=list)
    dashes: set[str] = field(default_factory=set)
    ranged: bool = False


def draw_curve(curve: Curve, all_series: Sequence[Series]) -> Chart | None:
    """Draw a measure of all runs against context length; None when no request has it.

    Of plans without any request their expectations are drawn, if there are several contexts.
    """
    shown = [
        result
        for series in all_series
        for result in series.results
        if result.status.answered and result.phase is LoadPhase.MEASURED and curve.value(result)
    ]
    measured = any(series.results for series in all_series)
    if not shown and (measured or all(len(curve.expected(series)) < 2 for series in all_series)):
        return None
    groups = group_contexts(all_series)
    drawn = {series.key: _collect(curve, series, groups) for series in all_series}
    contexts = sorted({context for part in drawn.values() for context in part.contexts})
    values = [value for part in drawn.values() for value in part.values]
    x = context_axis(contexts)
    y = seconds_axis(values, curve.axis) if curve.is_time else count_axis(curve.axis)
    layers = [
        one | {"encoding": {"x": x | {"field": "x"}, "y": y, **one["encoding"]}}
        for part in drawn.values()
        for one in part.layers
    ]
    rows, more = _table(curve, all_series)
    return Chart(
        anchor=curve.anchor,
        title=curve.title,
        svg=draw(layers),
        alt=_describe(curve, all_series, drawn),
        caption=_caption(curve, drawn),
        keys=tuple(_legend(all_series, drawn)),
        columns=("run", "context", "depth", "repeat", curve.title, "plan", "floor", "kind")
        if measured
        else ("plan", "context", curve.title, "floor"),
        rows=rows if measured else _table_plans(curve, all_series),
        more=more,
    )


def _collect(curve: Curve, series: Series, groups: Mapping[int, tuple[int, str]]) -> _CurveParts:
    part = _CurveParts()
    results = [r for r in series.results if r.status.answered and curve.value(r)]
    colour, key = colour_of(series.key), series.key
    _add_line(
        part, f"{key}-floor", curve.floor(series), {"color": colour, "strokeDash": [1, 4]}, "dots", curve
    )
    _add_line(
        part, f"{key}-plan", curve.expected(series), {"color": colour, "strokeDash": [7, 4]}, "dashes", curve
    )
    if not results:
        return part
    timed = [r for r in results if r.is_trusted] or results
    timed = [r for r in timed if not r.expected_cached_tokens] or timed
    middle: dict[int, list[float]] = {}
    for result in merge_contexts(timed, groups):
        middle.setdefault(result.context, []).append(curve.value(result) or 0.0)
    part.medians = [(context, median(values)) for context, values in sorted(middle.items())]
    line = [{"x": context, "y": value} for context, value in part.medians]
    mark = {"type": "line", "color": colour, "strokeWidth": 1.75, "opacity": 0.75}
    part.layers.append(layer(f"{key}-line", line, mark, {}))
    if len(results) > MOST_MARKS:
        _add_ranges(part, key, middle, curve)
    else:
        _add_marks(part, key, results, curve)
    part.contexts += [context for context, _ in part.medians]
    part.values += [value for _, value in part.medians]
    return part


def _add_line(
    part: _CurveParts, name: str, times: Mapping[int, float], style: dict[str, Any], shape: str, curve: Curve
) -> None:
    rows = [{"x": context, "y": value} for context, value in sorted(times.items())]
    if not rows:
        return
    what = "plan" if shape == "dashes" else "floor"
    tipped = [
        row | {"tip": f"{what}: {curve.write(row['y'])} at {format_tokens(int(row['x']))}"} for row in rows
    ]
    part.layers.append(layer(name, rows, {"type": "line", "strokeWidth": 1.5, **style}, {}))
    small = {"type": "point", "filled": True, "size": 22, "color": style["color"]}
    part.layers.append(layer(f"{name}-marks", tipped, small, {}))
    part.contexts += [int(row["x"]) for row in rows]
    part.values += [row["y"] for row in rows]
    part.dashes.add(shape)


def _add_marks(part: _CurveParts, key: str, results: Sequence[Result], curve: Curve) -> None:
    kind_of = {id(result): _kind(result) for result in results}
    for kind, chosen in groupby(
        sorted(results, key=lambda r: list(_KINDS).index(kind_of[id(r)])), key=lambda r: kind_of[id(r)]
    ):
        rows = []
        for result in chosen:
            value = curve.value(result) or 0.0
            where = f"{format_tokens(result.context)}, depth {result.depth:g}, repeat {result.repeat}"
            rows.append(
                {
                    "x": result.context,
                    "y": value,
                    "tip": f"{curve.write(value)} at {where}; {_KINDS[kind][0]}",
                }
            )
            part.values.append(value)
            part.contexts.append(result.context)
        mark = {
            "type": "point",
            "filled": True,
            "shape": _KINDS[kind][1],
            "size": 64,
            "opacity": 0.9,
            "color": "var(--bad)" if kind == "wrong" else colour_of(key),
        }
        part.layers.append(layer(f"{key}-{kind}", rows, mark, {}))
        part.kinds.add(kind)


def _add_ranges(part: _CurveParts, key: str, groups: Mapping[int, Sequence[float]], curve: Curve) -> None:
    """Draw many requests as the range of the middle 80 % and the median at each context."""
    bars, dots = [], []
    for context, values in sorted(groups.items()):
        low, high, mid = percentile(values, 10), percentile(values, 90), median(values)
        tip = (
            f"median {curve.write(mid)}, p10 {curve.write(low)}, p90 {curve.write(high)} of {len(values):,} requests"
            f" up to {format_tokens(context)}"
        )
        bars.append({"x": context, "y": low, "y2": high})
        dots.append({"x": context, "y": mid, "tip": tip})
        part.values += [low, high]
    colour = colour_of(key)
    rule = {"type": "rule", "color": colour, "strokeWidth": 5, "opacity": 0.3}
    part.layers.append(layer(f"{key}-range", bars, rule, {"y2": {"field": "y2"}}))
    point = {"type": "point", "filled": True, "size": 64, "color": colour}
    part.layers.append(layer(f"{key}-cold", dots, point, {}))
    part.ranged = True


def _kind(result: Result) -> str:
    if result.status is not Status.OK:
        return "wrong"
    if "warm" in result.labels or result.expected_cached_tokens:
        return "warm"
    return "unknown" if result.cached_tokens is None else "cold"


def _legend(all_series: Sequence[Series], drawn: Mapping[str, _CurveParts]) -> list[LegendKey]:
    keys = []
    if len(all_series) > 1:
        keys += [LegendKey(s.key, s.name, colour_of(s.key)) for s in all_series if drawn[s.key].layers]
    neutral = colour_of(all_series[0].key) if len(all_series) == 1 else "var(--fg-soft)"
    kinds = set().union(*(part.kinds for part in drawn.values()))
    if kinds - {"cold"} or len(all_series) == 1:
        for kind, (text, _, shape) in _KINDS.items():
            if kind in kinds:
                keys.append(LegendKey("", text, "var(--bad)" if kind == "wrong" else neutral, shape))
    dashes = set().union(*(part.dashes for part in drawn.values()))
    if "dashes" in dashes:
        keys.append(LegendKey("", "plan", neutral, "dashes"))
    if "dots" in dashes:
        keys.append(LegendKey("", "physical floor", neutral, "dots"))
    return keys


def _caption(curve: Curve, drawn: Mapping[str, _CurveParts]) -> str:
    if not any(part.medians for part in drawn.values()):
        how = "Nothing was measured."
    elif any(part.ranged for part in drawn.values()):
        how = "Bars hold the middle 80 % of the requests, dots and line are medians."
    else:
        how = "Every mark is one request; the line joins the medians."
    dashes = set().union(*(part.dashes for part in drawn.values()))
    plan = " Dashes are the plan's expectation of a request alone on the server" if dashes else ""
    floor = ", dots what no such hardware can beat" if "dots" in dashes else ""
    return f"{curve.caption} {how}{plan}{floor}{'.' if plan else ''}"


def _describe(curve: Curve, all_series: Sequence[Series], drawn: Mapping[str, _CurveParts]) -> str:
    sentences = []
    for series in all_series:
        medians = drawn[series.key].medians
        planned = "" if series.results else ", planned"
        if planned:
            medians = sorted(curve.expected(series).items())
        if not medians:
            continue
        (low, first), (high, last) = medians[0], medians[-1]
        text = f"{series.name}{planned}: {curve.write(first)} at {format_tokens(low)}"
        if high != low:
            text += f", {curve.write(last)} at {format_tokens(high)}"
        sentences.append(text)
    return f"{curve.title} against context length. {'; '.join(sentences)}."


def _table(curve: Curve, all_series: Sequence[Series]) -> tuple[tuple[tuple[str, ...], ...], int]:
    rows = []
    total = 0
    for series in all_series:
        plan, floor = curve.expected(series), curve.floor(series)
        for result in series.results:
            value = curve.value(result) if result.status.answered else None
            if not value:
                continue
            total += 1
            if total > MOST_TABLE_ROWS:
                continue
            planned, least = plan.get(result.context), floor.get(result.context)
            rows.append(
                (
                    series.name,
                    format_tokens(result.context),
                    f"{result.depth:g}",
                    str(result.repeat),
                    curve.write(value),
                    "" if planned is None else curve.write(planned),
                    "" if least is None else curve.write(least),
                    _KINDS[_kind(result)][0],
                )
            )
    return tuple(rows), total - len(rows)


def _table_plans(curve: Curve, all_series: Sequence[Series]) -> tuple[tuple[str, ...], ...]:
    rows = []
    for series in all_series:
        floor = curve.floor(series)
        for context, value in sorted(curve.expected(series).items()):
            least = curve.write(floor[context]) if context in floor else ""
            rows.append((series.name, format_tokens(context), curve.write(value), least))
    return tuple(rows)


__all__ = ["CURVES", "Chart", "Curve", "draw_curve", "write_seconds"]
