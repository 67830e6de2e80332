"""The chart of a server's start: its phases, from the log."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from farspan.diagnosis.timeline import Entry
from farspan.engines.logs.records import STARTUP
from farspan.reports.drawing import WIDE, Chart, LegendKey, colour_of, draw, layer, write_seconds
from farspan.reports.report_run import ReportRun
from farspan.reports.timelines import time_axis
from farspan.sizes import GIB, format_bytes, format_seconds


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """One phase of a start, in seconds since the first.

    Args:
        took: How long it took as the engine says, or by its lines' times; 0 when neither tells.
        until: When the next phase began; its own end for the last.
        gib: Memory of one GPU it took; None when the log does not say.
    """

    name: str
    begin: float
    took: float
    until: float
    gib: float | None


def list_spans(run: ReportRun) -> tuple[PhaseSpan, ...]:
    """List the phases of the last start in a run's server log; none when the log has no times."""
    entries = [
        (entry, entry.at)
        for entry in (run.log.timeline if run.log else ())
        if entry.at is not None and entry.phase in STARTUP
    ]
    if not entries:
        return ()
    first = min(_begin(entry, at) for entry, at in entries)
    spans = []
    for (entry, at), later in zip_longest(entries, entries[1:]):
        begin, took = _begin(entry, at) - first, entry.seconds or 0.0
        until = begin + took if later is None else max(later[1] - first, begin)
        spans.append(PhaseSpan(entry.phase.value, max(0.0, begin), took, until, entry.gib))
    return tuple(spans)


def _begin(entry: Entry, at: float) -> float:
    """Return when a phase began: of some, an engine prints only at their end how long they took."""
    if entry.took_s and entry.ended_at is not None and entry.ended_at - at < entry.took_s:
        return entry.ended_at - entry.took_s
    return at


def draw_startup(run: ReportRun) -> Chart | None:
    """Draw the phases of the server's start; None when the log does not have two with times."""
    spans = list_spans(run)
    if len(spans) < 2:
        return None
    total = max(max(span.until, span.begin + span.took) for span in spans)
    took, until = [], []
    for span in spans:
        size = "" if span.gib is None else f", {span.gib:.1f} GiB"
        tip = f"{span.name}: {format_seconds(span.took)}, from {span.begin:.0f} s{size}"
        # A phase too short to see is drawn as a line.
        end = span.begin + max(span.took, total / 400)
        took.append({"x": span.begin, "x2": end, "y": span.name, "tip": tip})
        until.append({"x": span.begin, "x2": span.until, "y": span.name})
    y = {
        "field": "y",
        "type": "nominal",
        "title": None,
        "sort": [span.name for span in spans],
        "axis": {"domain": False, "ticks": False},
    }
    encoding = {"x": time_axis("seconds since the log's first phase"), "x2": {"field": "x2"}, "y": y}
    bar = {"type": "bar", "height": {"band": 0.7}}
    longest = max(spans, key=lambda span: span.until - span.begin)
    return Chart(
        anchor=f"startup-{run.key}",
        title=f"Startup: {run.name}",
        svg=draw(
            [
                layer("until-bars", until, bar | {"color": "var(--line-strong)", "opacity": 0.45}, encoding),
                layer("phase-bars", took, bar | {"color": colour_of(run.key)}, encoding),
            ],
            width=WIDE,
            height=26 * len(spans),
        ),
        alt=f"The start of {run.name} took {format_seconds(total)}; the longest stretch is {longest.name}.",
        caption=f"Phases as the server's log ({run.log_name}) has them, by its own clock.",
        keys=(
            LegendKey("phase", "as long as the engine says it took", colour_of(run.key), "box"),
            LegendKey("until", "until the next phase", "var(--line-strong)", "box"),
        ),
        columns=("phase", "begins", "took", "memory of one GPU"),
        rows=tuple(
            (
                span.name,
                f"{span.begin:.0f} s",
                write_seconds(span.took),
                "" if span.gib is None else format_bytes(span.gib * GIB),
            )
            for span in spans
        ),
        wide=True,
    )
