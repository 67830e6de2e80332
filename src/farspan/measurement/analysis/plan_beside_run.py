"""A plan beside what was measured: for every point the expected TTFT, the floor, and the median of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan.engines.registry import find_served
from farspan.errors import InputError, UnsupportedError
from farspan.measurement.analysis.measures import group_points
from farspan.measurement.analysis.plan_times import PlannedTtft, list_planned
from farspan.measurement.analysis.point_values import lookup_point
from farspan.measurement.runs.environment import read_document
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import ENVIRONMENT_FILE
from farspan.planner.document import PlanDocument
from farspan.sizes import format_tokens

# A measured time may fall short of the floor by the rounding of both, not by more.
_ROUNDING = 0.999


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """A point's plan beside its measurement; times in seconds, None where not known.

    Args:
        expected: What the plan expects of one request alone on the server.
        floor: What no hardware of the planned kind can beat.
        measured: Median TTFT of the trusted requests.
        ratio: Measured over expected.
        note: What is odd about it; empty when nothing is.
    """

    context: int
    depth: float | None
    expected: float | None
    floor: float | None
    measured: float | None
    ratio: float | None
    note: str
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class TtftPlan:
    """The TTFT that a plan gives, by context, of one engine.

    Args:
        times: Context in tokens to the times planned for it.
    """

    times: dict[int, PlannedTtft]

    def at(self, context: int) -> PlannedTtft | None:
        """Return the times of a context; None when the plan has none for it.

        Nothing is interpolated: prefill has a linear and a quadratic part, and a threshold deserves a planned time.
        """
        return self.times.get(context)


def read_ttft_plan(path: Path, engine: str | None) -> TtftPlan:
    """Read a plan as `farspan plan --json` writes it, for one context or several.

    Args:
        path: The file.
        engine: The engine measured, as /v1/models names its owner; decides when the plan has several.

    Raises:
        InputError: The file is no plan, has no times, or has several engines and none is the one measured.
    """
    rows = list_planned(PlanDocument.load(path))
    plan = choose_engine(rows, engine)
    if plan is None:
        engines = ", ".join(sorted({row.engine for row in rows}))
        raise InputError(
            f"{path} plans {engines or 'no time'}, and the server is {engine or 'of an unknown engine'}",
            "plan that engine: farspan plan ... --engine NAME --contexts ... --json",
        )
    return plan


def choose_engine(rows: Sequence[PlannedTtft], engine: str | None) -> TtftPlan | None:
    """Choose the times of one engine: the one measured, or the only one planned; None when there is neither."""
    engines = {row.engine for row in rows}
    served = find_served(engine)
    wanted = served.name if served is not None else (engine or "").lower()
    if wanted not in engines:
        if len(engines) != 1:
            return None
        wanted = next(iter(engines))
    return TtftPlan({row.context: row for row in rows if row.engine == wanted})


def find_plan_document(folder: Path) -> PlanDocument | None:
    """Return the plan that the run in a folder was last started with; None when there was none, or no plan.

    Raises:
        UnsupportedError: A newer farspan wrote it.
    """
    return _read_last([start.get("plan") for start in _read_starts(folder)], f"the plan of {folder}")


def find_launch_plan(folder: Path) -> PlanDocument | None:
    """Return the plan that farspan started the server of a run by; None when it did not.

    Raises:
        UnsupportedError: A newer farspan wrote it.
    """
    launches = [start.get("launch") for start in _read_starts(folder)]
    plans = [launch.get("plan") for launch in launches if isinstance(launch, dict)]
    return _read_last(plans, f"the launch plan of {folder}")


def _read_starts(folder: Path) -> list[dict[str, Any]]:
    document = read_document(folder / ENVIRONMENT_FILE)
    starts = document.get("starts") if isinstance(document, dict) else None
    return [start for start in starts or () if isinstance(start, dict)]


def _read_last(plans: Sequence[object], what: str) -> PlanDocument | None:
    known = [plan for plan in plans if plan is not None]
    try:
        return PlanDocument.from_json(known[-1], what) if known else None
    except UnsupportedError:
        raise
    except InputError:
        return None


def find_plan(folder: Path, engine: str | None) -> TtftPlan | None:
    """Return the times of the plan that the run in a folder was last started with.

    Returns:
        None when there was no plan, or none for this engine.

    Raises:
        UnsupportedError: A newer farspan wrote it.
    """
    plan = find_plan_document(folder)
    return choose_engine(list_planned(plan), engine) if plan else None


def compare_with_plan(results: Sequence[Result], plan: TtftPlan) -> tuple[PlannedPoint, ...]:
    """Put the plan beside every point measured."""
    points = []
    for key, group in group_points(results).items():
        context, depth = key.context, key.depth
        planned = plan.at(context)
        expected, floor = (None, None) if planned is None else (planned.expected_s, planned.floor_s)
        measured = lookup_point("ttft.median", group)
        note = ""
        if key.warm:
            expected = floor = None
            note = f"{key}: the plan's times are of prompts that are computed in full"
        elif expected is None:
            note = f"the plan has no time for {format_tokens(context)}"
        elif measured is None:
            note = "no request whose time can be trusted"
        elif floor and measured < floor * _ROUNDING:
            note = "below the floor: served from a cache, or not the planned model and GPUs"
        ratio = measured / expected if measured is not None and expected else None
        points.append(PlannedPoint(context, depth, expected, floor, measured, ratio, note, key.concurrency))
    return tuple(points)
