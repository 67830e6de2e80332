"""The plan of every context that is measured, kept where the measurement finds it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson

from farspan.launch.launch_spec import Launch
from farspan.measurement.analysis.plan_times import list_planned


def write_context_plan(launch: Launch, contexts: Iterable[int], path: Path) -> Path | None:
    """Write the plan of a server's contexts; None where nothing was planned, or no time."""
    if launch.request is None:
        return None
    from farspan.planner.build_document import build_sweep
    from farspan.planner.sweep import sweep

    points = sweep(launch.request, sorted(set(contexts)), (launch.engine,))
    document = build_sweep(launch.request, tuple(points))
    if not list_planned(document):
        return None
    path.write_bytes(orjson.dumps(document.to_json(), option=orjson.OPT_INDENT_2))
    return path
