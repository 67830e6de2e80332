"""Charts of load: what every concurrency brings in throughput and costs in time to first token and between tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from farspan.measurement.analysis.load_curve import CurvePoint, list_run_curve
from farspan.measurement.analysis.measures import MEASURES
from farspan.reports.drawing import Chart, LegendKey, colour_of, count_axis, draw, layer, seconds_axis
from farspan.reports.report_run import ReportRun
from farspan.sizes import format_seconds, format_tokens

LOAD_MEASURES = ("ttft", "itl")
LOAD_COLUMNS = (
    "context", "concurrency", "requests", "bad", "requests/s", "output tokens/s", "TTFT p50", "p90", "p99", "ITL p50",
    "p90", "p99", "engine's TTFT, mean", "ours late by",
)  # fmt: skip
_PERCENTS = (50.0, 90.0, 99.0)
_TITLES = {"ttft": "Time to first token under load", "itl": "Time between tokens under load"}
# How a percentile's line is drawn, and its shape in the legend.
_STROKES: dict[float, tuple[list[int], str]] = {
    50.0: ([], "line"),
    90.0: ([7, 4], "dashes"),
    99.0: ([1, 4], "dots"),
}
# The marks of the first, second, ... context, and their shapes in the legend.
_SHAPES = (("circle", "dot"), ("square", "box"), ("triangle-up", "triangle"), ("diamond", "diamond"))


@dataclass(frozen=True, slots=True)
class _Line:
    """One percentile of one context of one run: its points from the lowest concurrency on."""

    run: ReportRun
    context: int | None
    percent: float
    points: tuple[CurvePoint, ...]

    def tip(self, point: CurvePoint, measure: str) -> str:
        """Write one point."""
        took = format_seconds(point.latency[measure].percentiles[self.percent])
        name = f"{MEASURES[measure].title} p{self.percent:g}"
        rate = _write_rate(point.output_tokens_per_s)
        return f"{point.concurrency} at once, {_write_context(self.context)}: {name} {took}, {rate} output tokens/s"


def list_load(run: ReportRun) -> tuple[CurvePoint, ...]:
    """List what every concurrency of a run brought; nothing for a run of a single one."""
    return list_run_curve(run.recorded.info, run.results, _PERCENTS, run.series.get("engine", {}))


def write_load(point: CurvePoint) -> tuple[str, ...]:
    """Write one concurrency as cells under `LOAD_COLUMNS`; a percentile that rests on too few values is in brackets."""

    def cells(measure: str) -> Iterator[str]:
        spread = point.latency.get(measure)
        for percent in _PERCENTS:
            text = "" if spread is None else format_seconds(spread.percentiles[percent])
            yield f"({text})" if spread is not None and percent in spread.few and percent > 50 else text

    engine = point.engine_ttft
    return (
        _write_context(point.context),
        f"{point.concurrency:,}",
        f"{point.requests:,}",
        f"{point.failed:,}" if point.failed else "",
        _write_rate(point.requests_per_s),
        _write_rate(point.output_tokens_per_s),
        *cells("ttft"),
        *cells("itl"),
        "" if engine is None else format_seconds(engine.mean_s),
        "" if engine is None or engine.late_s is None else format_seconds(engine.late_s),
    )


def draw_load(measure: str, runs: Sequence[ReportRun]) -> Chart | None:
    """Draw a time's percentiles against throughput, a mark a concurrency; None where no run has two of them."""
    lines = [line for run in runs for line in _list_lines(run, measure)]
    if not lines:
        return None
    contexts = list(dict.fromkeys(line.context for line in lines))
    values = [p.latency[measure].percentiles[line.percent] for line in lines for p in line.points]
    encoding = {
        "x": count_axis("output tokens a second") | {"field": "x"},
        "y": seconds_axis([value for value in values if value > 0] or [1.0], MEASURES[measure].title),
    }
    layers: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        shape = _SHAPES[contexts.index(line.context) % len(_SHAPES)][0]
        layers += _draw_line(f"{line.run.key}-load-{number}", line, measure, shape, encoding)
    several = len({line.run.key for line in lines}) > 1
    return Chart(
        anchor=f"load-{measure}",
        title=_TITLES[measure],
        svg=draw(layers),
        alt=_describe(measure, lines),
        caption=(
            "Every mark is a concurrency, its number beside the median. A percentile is left out where too few values"
            " carry it; the time axis is logarithmic."
        ),
        keys=tuple(_list_keys(lines, contexts, several=several)),
        columns=("run", "context", "at once", "output tokens/s", "percentile", MEASURES[measure].title),
        rows=tuple(_list_rows(measure, lines)),
    )


def _list_lines(run: ReportRun, measure: str) -> Iterator[_Line]:
    curve = [
        point
        for point in list_load(run)
        if point.output_tokens_per_s is not None and point.latency.get(measure) is not None
    ]
    for context, group in groupby(curve, key=lambda point: point.context):
        points = tuple(group)
        if len(points) < 2:
            continue
        for percent in _PERCENTS:
            carried = tuple(
                p for p in points if percent == _PERCENTS[0] or percent not in p.latency[measure].few
            )
            if carried:
                yield _Line(run, context, percent, carried)


def _draw_line(
    name: str, line: _Line, measure: str, shape: str, encoding: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    colour = colour_of(line.run.key)
    rows = [
        {
            "x": point.output_tokens_per_s,
            "y": point.latency[measure].percentiles[line.percent],
            "tip": line.tip(point, measure),
            "order": point.concurrency,
            "label": str(point.concurrency),
        }
        for point in line.points
        if point.latency[measure].percentiles[line.percent] > 0
    ]
    if not rows:
        return
    bare = [{key: value for key, value in row.items() if key != "tip"} for row in rows]
    median = line.percent == _PERCENTS[0]
    stroke = {"type": "line", "color": colour, "strokeWidth": 1.75, "strokeDash": _STROKES[line.percent][0]}
    # Joined from the lowest concurrency on: with more at once the throughput may fall again.
    yield layer(
        f"{name}-line", bare, stroke, encoding | {"order": {"field": "order", "type": "quantitative"}}
    )
    if median:
        text = {"type": "text", "dy": -11, "fontSize": 11, "color": "var(--fg-soft)"}
        yield layer(f"{name}-label", bare, text, encoding | {"text": {"field": "label", "type": "nominal"}})
    mark = {"type": "point", "filled": True, "shape": shape, "size": 64 if median else 30, "color": colour}
    yield layer(f"{name}-marks", rows, mark, encoding)


def _list_keys(
    lines: Sequence[_Line], contexts: Sequence[int | None], *, several: bool
) -> Iterator[LegendKey]:
    if several:
        for run in {line.run.key: line.run for line in lines}.values():
            yield LegendKey(run.key, run.name, colour_of(run.key))
    neutral = "var(--fg-soft)" if several else colour_of(lines[0].run.key)
    if len(contexts) > 1:
        for number, context in enumerate(contexts):
            yield LegendKey("", _write_context(context), neutral, _SHAPES[number % len(_SHAPES)][1])
    for percent in _PERCENTS:
        if any(line.percent == percent for line in lines):
            yield LegendKey("", f"p{percent:g}", neutral, _STROKES[percent][1])


def _list_rows(measure: str, lines: Sequence[_Line]) -> Iterator[tuple[str, ...]]:
    for line in lines:
        for point in line.points:
            yield (
                line.run.name,
                _write_context(line.context),
                f"{point.concurrency:,}",
                _write_rate(point.output_tokens_per_s),
                f"p{line.percent:g}",
                format_seconds(point.latency[measure].percentiles[line.percent]),
            )


def _describe(measure: str, lines: Sequence[_Line]) -> str:
    sentences = []
    for line in lines:
        if line.percent != _PERCENTS[0]:
            continue
        ends = [line.points[0], line.points[-1]]
        texts = [
            f"{point.concurrency} at once {format_seconds(point.latency[measure].percentiles[line.percent])} at"
            f" {_write_rate(point.output_tokens_per_s)} output tokens/s"
            for point in ends
        ]
        sentences.append(f"{line.run.name}, {_write_context(line.context)}: {', '.join(texts)}")
    return f"{_TITLES[measure]}, the median against throughput. {'; '.join(sentences)}."


def _write_context(context: int | None) -> str:
    return "mixed lengths" if context is None else format_tokens(context)


def _write_rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.{0 if rate >= 100 else 2}f}"
