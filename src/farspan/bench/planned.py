"""A plan beside what was measured: for every point the expected TTFT, the floor, and the median of the run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from farspan.bench.expression import Condition, UnknownValueError
from farspan.bench.measure import Result
from farspan.bench.values import PlannedTtft, group_points, lookup_point
from farspan.errors import InputError
from farspan.sizes import format_tokens

PLAN_FILE = "plan.json"
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
    depth: float
    expected: float | None
    floor: float | None
    measured: float | None
    ratio: float | None
    note: str


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
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a plan ({error})", "write it with farspan plan --json"
        ) from error
    rows = list(_list_rows(document))
    engines = sorted({name for name, _, _ in rows})
    wanted = {"farspan": "builtin"}.get((engine or "").lower(), (engine or "").lower())
    if len(engines) == 1:
        wanted = engines[0]
    if wanted not in engines:
        if not rows:
            raise InputError(
                f"{path} plans no time", "write it with farspan plan MODEL --contexts ... --json"
            )
        raise InputError(
            f"{path} plans {', '.join(engines)}, and the server is {engine or 'of an unknown engine'}",
            "plan one engine: farspan plan ... --engine NAME --json",
        )
    return TtftPlan({context: times for name, context, times in rows if name == wanted})


def store_plan(path: Path, folder: Path) -> None:
    """Keep a plan with the run it is measured against.

    Raises:
        InputError: It cannot be copied.
    """
    try:
        shutil.copyfile(path, folder / PLAN_FILE)
    except shutil.SameFileError:
        return
    except OSError as error:
        raise InputError(f"{path} cannot be copied to {folder} ({error})", "free some space") from error


def find_plan(folder: Path, engine: str | None) -> TtftPlan | None:
    """Return the plan that a run folder holds, None when it holds none.

    Raises:
        InputError: It cannot be read.
    """
    path = folder / PLAN_FILE
    return read_ttft_plan(path, engine) if path.is_file() else None


def compare_with_plan(results: Sequence[Result], plan: TtftPlan) -> tuple[PlannedPoint, ...]:
    """Put the plan beside every point measured."""
    points = []
    for (context, depth), group in group_points(results).items():
        planned = plan.at(context) or PlannedTtft(None, None)
        measured = lookup_point("ttft.median", group)
        note = ""
        if planned.expected is None:
            note = f"the plan has no time for {format_tokens(context)}"
        elif measured is None:
            note = "no request whose time can be trusted"
        elif planned.floor and measured < planned.floor * _ROUNDING:
            note = "below the floor: served from a cache, or not the planned model and GPUs"
        ratio = measured / planned.expected if measured is not None and planned.expected else None
        points.append(PlannedPoint(context, depth, planned.expected, planned.floor, measured, ratio, note))
    return tuple(points)


@dataclass(frozen=True, slots=True)
class Firing:
    """A condition that is true somewhere, or cannot be judged there.

    Args:
        condition: Its text.
        where: The point, in words.
        reason: Why it fires.
    """

    condition: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"--fail-if {self.condition!r} at {self.where}: {self.reason}"


def find_firings(
    conditions: Iterable[Condition], results: Sequence[Result], plan: TtftPlan | None = None
) -> tuple[Firing, ...]:
    """Judge conditions at every context and depth. What cannot be judged fires: CI must not pass on missing data.

    Raises:
        InputError: A condition asks for the plan and there is none.
    """
    groups = group_points(results)
    firings = []
    for condition in conditions:
        if plan is None and any(name.split(".")[0] == "plan" for name in condition.names):
            raise InputError(f"{condition.text!r} asks for the plan", "give one with --plan")
        if not groups:
            firings.append(Firing(condition.text, "every point", "no request has finished"))
        for (context, depth), group in groups.items():
            planned = None if plan is None else plan.at(context)
            known = {name: lookup_point(name, group, planned) for name in condition.names}
            where = f"{format_tokens(context)}, depth {depth:g}"
            values = ", ".join(f"{name} = {value:.6g}" for name, value in known.items() if value is not None)
            try:
                if condition.holds(known.get):
                    firings.append(Firing(condition.text, where, f"it is true: {values}"))
            except UnknownValueError as error:
                firings.append(Firing(condition.text, where, f"it cannot be judged: {error}"))
    return tuple(firings)


def _list_rows(document: Any) -> Iterable[tuple[str, int, PlannedTtft]]:
    """Yield engine, context and times of either shape: one context with engines, or a sweep with points."""
    if not isinstance(document, dict):
        return
    rows = document.get("points")
    if not isinstance(rows, list):
        engines = document.get("engines")
        rows = [
            {**plan, "engine": name, "context": document.get("context")}
            for name, plan in (engines.items() if isinstance(engines, dict) else ())
            if isinstance(plan, dict)
        ]
    for row in rows:
        if not isinstance(row, dict):
            continue
        times, context, engine = row.get("ttft_s"), row.get("context"), row.get("engine")
        if isinstance(times, dict) and isinstance(context, int) and isinstance(engine, str):
            yield (
                engine,
                context,
                PlannedTtft(_positive(times.get("expected")), _positive(times.get("floor"))),
            )


def _positive(value: Any) -> float | None:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
    )
