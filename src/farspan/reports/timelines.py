"""Charts against time: the KV cache's memory and the requests under way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.series import Reading
from farspan.reports.drawing import WIDE, Chart, LegendKey, colour_of, draw, layer, write_seconds
from farspan.reports.kvmemory import KvHeld, find_kv, read_time
from farspan.reports.report_run import ReportRun
from farspan.sizes import GIB, format_seconds, format_tokens

_FORMATS = {"tokens": "~s", "share": ".0%", "bytes": "~r"}
_MOST_BARS = 300
_MOST_POINTS = 400
_MOST_TABLE_ROWS = 200
# A run that was resumed has days between its starts: only the longest stretch is drawn.
_PAUSE_S = 300.0


def draw_kv(run: ReportRun) -> Chart | None:
    """Draw the KV cache's memory through time; None without readings."""
    kv = find_kv(run)
    if kv is None or len(kv.held) < 2 or kv.peak <= 0:
        return None
    held, dropped = _longest_stretch(kv.held)
    began, ended = held[0].time, held[-1].time
    used = [reading for reading in kv.used if began <= reading.time <= ended]
    thin, used = _thin(held), _thin(used)
    scale, unit = _scale_of(kv)
    per, word = _unit_of(ended - began)
    x = time_axis(word)
    top = max(kv.peak, kv.capacity if kv.capacity and kv.capacity < 20 * kv.peak else 0.0) / scale
    y: dict[str, Any] = {
        "field": "y",
        "type": "quantitative",
        "title": f"KV cache, {unit}",
        "scale": {"domain": [0, top * 1.08], "nice": False},
        "axis": {"tickCount": 5, "labelExpr": f"format(datum.value, '{_FORMATS[kv.unit]}')"},
    }
    colour = colour_of(run.key)
    encoding = {"x": x, "y": y}
    rows = [{"x": (r.time - began) / per, "y": r.value / scale} for r in thin]
    tipped = [
        row
        | {
            "tip": f"{kv.write(r.value)} {'mapped' if kv.elastic else 'held'} at {format_seconds(r.time - began)}"
        }
        for row, r in zip(rows, thin, strict=True)
    ]
    area = {"type": "area", "interpolate": "step-after", "color": colour, "opacity": 0.22}
    line = {"type": "line", "interpolate": "step-after", "color": colour, "strokeWidth": 1.75}
    invisible = {"type": "point", "filled": True, "size": 40, "color": colour, "opacity": 0}
    layers = [layer("held-area", rows, area, encoding), layer("held-line", rows, line, encoding)]
    keys = [
        LegendKey("held", "memory taken from the device" if kv.elastic else "held by requests", colour, "box")
    ]
    if used:
        points = [{"x": (r.time - began) / per, "y": r.value / scale} for r in used]
        style = {"type": "line", "interpolate": "step-after", "color": "var(--fg)", "strokeWidth": 1.25}
        layers.append(layer("used-line", points, style, encoding))
        keys.append(LegendKey("used", "pages in use", "var(--fg)", "line"))
    fixed = kv.capacity if kv.capacity is not None and kv.capacity / scale <= top else None
    if fixed is None and kv.elastic:
        fixed = max(reading.value for reading in held)
    if fixed is not None:
        rule = {"type": "rule", "color": "var(--bad)", "strokeDash": [7, 4], "strokeWidth": 1.5}
        layers.append(layer("pool-line", [{"y": fixed / scale}], rule, {"y": y}))
        least = "the smallest fixed pool for this run" if fixed != kv.capacity else "a fixed pool"
        keys.append(LegendKey("pool", f"{least}: {kv.write(fixed)} all the time", "var(--bad)", "dashes"))
    layers.append(layer("held-points", tipped, invisible, encoding))
    mean = _mean(held)
    return Chart(
        anchor=f"kv-{run.key}",
        title=f"KV cache over time: {run.name}",
        svg=draw(layers, width=WIDE, height=220),
        alt=(
            f"KV cache of {run.name} over {format_seconds(ended - began)}: "
            f"peak {kv.write(kv.peak)}, on average {kv.write(mean)}"
            + (f", of {kv.write(kv.capacity)} at most." if kv.capacity and kv.unit != "share" else ".")
        ),
        caption=_caption_kv(kv, mean, dropped),
        keys=tuple(keys),
        columns=("time", "taken" if kv.elastic else "held", "in use"),
        rows=_kv_rows(kv, held, began),
        more=max(0, len(held) - _MOST_TABLE_ROWS),
        wide=True,
    )


def _caption_kv(kv: KvHeld, mean: float, dropped: bool) -> str:
    if kv.elastic:
        text = (
            "The cache takes memory as prompts need it and gives it back. It held"
            f" {kv.write(mean)} on average, {mean / kv.peak:.0%} of the {kv.write(kv.peak)} that the smallest"
            " fixed pool for this run would hold from start to end."
        )
        if kv.capacity:
            text += f" A server that takes all it may at its start would hold {kv.write(kv.capacity)}."
    else:
        text = f"The pool is fixed; requests held {kv.write(mean)} of it on average. Its size is from {kv.basis}."
    return text + (" The run had pauses: only its longest stretch is drawn." if dropped else "")


def _kv_rows(kv: KvHeld, held: Sequence[Reading], began: float) -> tuple[tuple[str, ...], ...]:
    used = {reading.time: reading.value for reading in kv.used}
    return tuple(
        (
            f"{reading.time - began:.1f} s",
            kv.write(reading.value),
            kv.write(used[reading.time]) if reading.time in used else "",
        )
        for reading in held[:_MOST_TABLE_ROWS]
    )


def draw_requests(run: ReportRun) -> Chart | None:
    """Draw one bar a request: queue, prefill, decode; None without start times."""
    timed = [(began, result) for result in run.results if (began := read_time(result.started_at)) is not None]
    timed.sort(key=lambda pair: pair[0])
    if not timed:
        return None
    stretch = _first_stretch(timed)
    shown = stretch[:_MOST_BARS]
    first = shown[0][0]
    end = max(began + result.e2e_s for began, result in shown) - first
    per, word = _unit_of(end)
    step = max(1.5, min(16.0, 420.0 / len(shown)))
    parts: dict[str, list[dict[str, Any]]] = {"queue": [], "prefill": [], "decode": [], "failed": []}
    for number, (began, result) in enumerate(shown):
        for name, start, stop in _phases(result):
            tip = f"{name} {format_seconds(stop - start)} of {format_tokens(result.context)} at depth {result.depth:g}"
            parts[name].append(
                {
                    "x": (began - first + start) / per,
                    "x2": (began - first + stop) / per,
                    "y": number,
                    "y2": number + 0.8,
                    "tip": tip,
                }
            )
    colours = {
        "queue": "var(--line-strong)",
        "prefill": colour_of(run.key),
        "decode": "var(--good)",
        "failed": "var(--bad)",
    }
    x = time_axis(word)
    y = {
        "field": "y",
        "type": "quantitative",
        "title": "request",
        "scale": {"domain": [0, len(shown)], "reverse": True, "nice": False},
        "axis": {"tickMinStep": 1, "tickCount": min(5, len(shown)), "grid": False},
    }
    encoding = {"x": x, "x2": {"field": "x2"}, "y": y, "y2": {"field": "y2"}}
    layers = [
        layer(f"{name}-bars", rows, {"type": "rect", "color": colours[name]}, encoding)
        for name, rows in parts.items()
        if rows
    ]
    most_at_once = max(result.most_at_once for _, result in shown)
    return Chart(
        anchor=f"requests-{run.key}",
        title=f"Requests over time: {run.name}",
        svg=draw(layers, width=WIDE, height=int(max(60, step * len(shown)))),
        alt=(
            f"{len(shown):,} requests of {run.name} over {format_seconds(end)}, at most {most_at_once:,} at a time, "
            f"{len(parts['failed']):,} of them failed."
        ),
        caption=(
            "One bar a request. Prefill runs to the first token"
            + (
                ", queue time taken off"
                if parts["queue"]
                else "; queueing is in it where the server does not tell it"
            )
            + "."
            + (
                f" The first {len(shown):,} of {len(timed):,} requests are drawn."
                if len(timed) > len(shown)
                else ""
            )
        ),
        keys=tuple(LegendKey(name, name, colours[name], "box") for name, rows in parts.items() if rows),
        columns=("start", "context", "depth", "queue", "first token", "end", "status"),
        rows=tuple(
            (
                f"{began - first:.2f} s",
                format_tokens(result.context),
                f"{result.depth:g}",
                write_seconds(result.queue_s),
                write_seconds(result.ttft_s),
                write_seconds(result.e2e_s),
                result.status.value,
            )
            for began, result in shown
        ),
        more=len(timed) - len(shown),
        wide=True,
    )


def _phases(result: Result) -> list[tuple[str, float, float]]:
    if result.ttft_s is None or not result.status.answered:
        return [("failed", 0.0, max(result.e2e_s, 1e-3))]
    queue = min(result.queue_s or 0.0, result.ttft_s)
    found = [("queue", 0.0, queue)] if queue > 0 else []
    last = "failed" if result.status is not Status.OK else "decode"
    return [
        *found,
        ("prefill", queue, result.ttft_s),
        (last, result.ttft_s, max(result.e2e_s, result.ttft_s)),
    ]


def time_axis(title: str) -> dict[str, Any]:
    """Return a linear x axis of time in the unit that `title` names."""
    axis = {"tickCount": 10, "labelExpr": "format(datum.value, '~r')"}
    return {"field": "x", "type": "quantitative", "title": title, "scale": {"nice": False}, "axis": axis}


def _unit_of(seconds: float) -> tuple[float, str]:
    """Return the unit for a time axis of this length, in seconds, and its name."""
    if seconds < 300:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def _scale_of(kv: KvHeld) -> tuple[float, str]:
    if kv.unit != "bytes":
        return 1.0, {"tokens": "tokens", "share": "share of the pool"}[kv.unit]
    for size, unit in ((GIB, "GiB"), (2**20, "MiB")):
        if kv.peak >= size:
            return float(size), unit
    return 1024.0, "KiB"


def _mean(readings: Sequence[Reading]) -> float:
    """Return the mean over time: every reading holds until the next."""
    spans = [(later.time - earlier.time, earlier.value) for earlier, later in pairwise(readings)]
    total = sum(span for span, _ in spans)
    return sum(span * value for span, value in spans) / total if total else readings[0].value


def _thin(readings: Sequence[Reading]) -> list[Reading]:
    """Keep the highest reading of every stretch: a peak is never lost."""
    if len(readings) <= _MOST_POINTS:
        return list(readings)
    size = -(-len(readings) // _MOST_POINTS)
    return [max(readings[i : i + size], key=lambda r: r.value) for i in range(0, len(readings), size)]


def _longest_stretch(readings: Sequence[Reading]) -> tuple[Sequence[Reading], bool]:
    stretches: list[list[Reading]] = [[]]
    for reading in readings:
        if stretches[-1] and reading.time - stretches[-1][-1].time > _PAUSE_S:
            stretches.append([])
        stretches[-1].append(reading)
    return max(stretches, key=len), len(stretches) > 1


def _first_stretch(timed: Sequence[tuple[float, Result]]) -> Sequence[tuple[float, Result]]:
    """Return the requests up to the first long pause in which none was under way."""
    until = timed[0][0]
    for number, (began, result) in enumerate(timed):
        if began - until > _PAUSE_S:
            return timed[:number]
        until = max(until, began + result.e2e_s)
    return timed
