"""The memory of one GPU, plan beside measurement, as stacked bars."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from farspan.reports.drawing import WIDE, Chart, LegendKey, draw, layer
from farspan.reports.report_run import ReportRun
from farspan.reports.series import Series
from farspan.sizes import GIB, format_bytes

# In the order they are stacked; the last is what is known to be used and by nothing above.
PARTS = ("weights", "KV cache", "CUDA graphs", "everything else")
_COLOURS = dict(zip(PARTS, ("var(--part-1)", "var(--part-2)", "var(--part-3)", "var(--part-4)"), strict=True))
_NAMES = (
    (re.compile("graph", re.IGNORECASE), "CUDA graphs"),
    (re.compile(r"\bKV (pool|cache)", re.IGNORECASE), "KV cache"),
    (re.compile("^weights", re.IGNORECASE), "weights"),
)


@dataclass(frozen=True, slots=True)
class Stack:
    """One bar.

    Args:
        who: The run's name.
        what: `plan` or `measured`.
        key: `a1`, `a2`, ...: the bar's name in the drawing.
        bytes: Part to bytes of one GPU.
        note: Where they come from.
    """

    who: str
    what: str
    key: str
    bytes: dict[str, float]
    note: str


def stack_plan(series: Series) -> Stack | None:
    """Sum up the planned ledger by part; None when the plan has none."""
    plan = series.plan
    if plan is None or not (plan.ledger or plan.kv_bytes):
        return None
    parts: dict[str, float] = {}
    for line in plan.ledger:
        name = next((part for pattern, part in _NAMES if pattern.search(line.name)), PARTS[-1])
        parts[name] = parts.get(name, 0.0) + line.bytes
    if not parts and plan.kv_bytes:
        parts["KV cache"] = plan.kv_bytes
    return Stack(
        series.name, "plan", f"{series.key}1", parts, f"plan of {plan.engine} {plan.version}".strip()
    )


def stack_measured(series: ReportRun) -> Stack | None:
    """Sum up what the log, the engine's metrics and the GPU's driver said; None when they said nothing."""
    figures = series.log.capacity if series.log else {}
    parts: dict[str, float] = {}
    sources = []
    for name, part in (("weights_gib", "weights"), ("graphs_gib", "CUDA graphs")):
        if figures.get(name):
            parts[part] = figures[name] * GIB
    kv = figures.get("available_kv_gib") or figures.get("kv_pool_gib")
    if kv:
        parts["KV cache"] = kv * GIB
    if parts:
        sources.append("the server's log")
    mapped = series.readings("kv_mapped_bytes")
    if mapped and "KV cache" not in parts:
        parts["KV cache"] = max(reading.value for reading in mapped)
        sources.append("the engine's metrics, at the peak")
    used = max((r.value for r in series.readings("memory_used_bytes", "gpu0")), default=0.0)
    # Without the pool, the rest would be mostly the pool.
    if used > sum(parts.values()) and "KV cache" in parts:
        parts[PARTS[-1]] = used - sum(parts.values())
        sources.append("the GPU's driver, at the peak")
    if not parts:
        return None
    return Stack(series.name, "measured", f"{series.key}2", parts, ", ".join(sources))


def draw_ledger(all_series: Sequence[Series]) -> Chart | None:
    """Draw the memory of one GPU, plan against measured, a pair of bars a run; None when neither is known."""
    stacks = [stack for series in all_series for stack in _stacks_of(series)]
    # One part by itself is no comparison, and has its own chart.
    if not any(stack.what == "plan" or len(stack.bytes) > 1 for stack in stacks):
        return None
    measured = any(isinstance(series, ReportRun) for series in all_series)
    capacity = max((s.plan.gpu_bytes for s in all_series if s.plan and s.plan.gpu_bytes), default=None)
    scale, unit = (GIB, "GiB") if max(sum(s.bytes.values()) for s in stacks) >= GIB else (2**20, "MiB")
    rows = []
    for stack in stacks:
        at = 0.0
        for part in PARTS:
            size = stack.bytes.get(part, 0.0)
            if size:
                label = f"{stack.key[0].upper()} {stack.what}" if len(all_series) > 1 else stack.what
                tip = f"{stack.what}: {part} {format_bytes(size)}"
                rows.append(
                    {"y": label, "x": at / scale, "x2": (at + size) / scale, "part": part, "tip": tip}
                )
                at += size
    x = {
        "field": "x",
        "type": "quantitative",
        "title": f"memory of one GPU, {unit}" if unit == "GiB" else f"memory, {unit}",
        "scale": {"zero": True, "nice": True},
        "axis": {"tickCount": 10},
    }
    order = list(dict.fromkeys(row["y"] for row in rows))
    y = {
        "field": "y",
        "type": "nominal",
        "title": None,
        "sort": order,
        "axis": {"domain": False, "ticks": False},
    }
    encoding = {"x": x, "x2": {"field": "x2"}, "y": y}
    shown = [part for part in PARTS if any(row["part"] == part for row in rows)]
    layers = [
        layer(
            f"part{PARTS.index(part)}-bars",
            [row for row in rows if row["part"] == part],
            {"type": "bar", "color": _COLOURS[part], "height": {"band": 0.7}},
            encoding,
        )
        for part in shown
    ]
    keys = [LegendKey(f"part{PARTS.index(part)}", part, _COLOURS[part], "box") for part in shown]
    if capacity:
        rule = {"type": "rule", "color": "var(--fg)", "strokeDash": [4, 3]}
        layers.append(layer("gpu-line", [{"x": capacity / scale}], rule, {"x": x}))
        keys.append(LegendKey("gpu", f"the GPU: {format_bytes(capacity)}", "var(--fg)", "dashes"))
    return Chart(
        anchor="memory",
        title="Memory, plan against measured" if measured else "Memory of one GPU, planned",
        svg=draw(layers, width=WIDE, height=40 * len(stacks)),
        alt="Memory by part. "
        + " ".join(
            f"{stack.who}, {stack.what}: "
            + ", ".join(f"{part} {format_bytes(size)}" for part, size in stack.bytes.items())
            + "."
            for stack in stacks
        ),
        caption=_caption(all_series, stacks, measured=measured),
        keys=tuple(keys),
        columns=("run", "which", "part", "size", "where from"),
        rows=tuple(_table(all_series, stacks)),
        wide=True,
    )


def _stacks_of(series: Series) -> list[Stack]:
    measured = stack_measured(series) if isinstance(series, ReportRun) else None
    return [stack for stack in (stack_plan(series), measured) if stack is not None]


def _caption(all_series: Sequence[Series], stacks: Sequence[Stack], *, measured: bool) -> str:
    text = "What nobody reported is not drawn: a measured bar may be shorter than the memory in use."
    if not measured:
        text = "Nothing was measured."
        if not any(series.plan and series.plan.ledger for series in all_series):
            text += " Plans of several contexts have no ledger: only the KV pool is drawn."
    if len(all_series) > 1:
        named = {stack.key[0]: stack.who for stack in stacks}
        text += " " + ", ".join(f"{key.upper()} is {who}" for key, who in named.items()) + "."
    return text


def _table(all_series: Sequence[Series], stacks: Sequence[Stack]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (stack.who, stack.what, part, format_bytes(size), stack.note)
        for stack in stacks
        for part, size in stack.bytes.items()
    ]
    for series in all_series:
        for line in series.plan.ledger if series.plan else ():
            rows.append((series.name, "plan, line", line.name, format_bytes(line.bytes), line.basis))
    return rows
