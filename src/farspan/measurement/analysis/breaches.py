"""Conditions judged at every point: which hold somewhere, and which cannot be judged there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farspan.errors import InputError
from farspan.measurement.analysis.measures import PointKey, group_points
from farspan.measurement.analysis.plan_beside_run import TtftPlan, find_plan
from farspan.measurement.analysis.point_values import lookup_point
from farspan.measurement.analysis.threshold import Condition, UnknownValueError
from farspan.measurement.runs.result import Result


@dataclass(frozen=True, slots=True)
class Breach:
    """A condition that is true somewhere, or cannot be judged there.

    Args:
        condition: Its text.
        where: The point, in words.
        reason: Why it counts as breached.
    """

    condition: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"--fail-if {self.condition!r} at {self.where}: {self.reason}"


def judge(
    conditions: Iterable[Condition],
    points: Iterable[PointKey],
    lookup: Callable[[str, PointKey], float | None],
) -> tuple[Breach, ...]:
    """Judge conditions at every point. What cannot be judged is a breach: CI must not pass on missing data.

    Args:
        conditions: What must not hold.
        points: Where to judge.
        lookup: Returns the value of a name at a point; None where it is not known.
    """
    keys = list(points)
    breaches = []
    for condition in conditions:
        if not keys:
            breaches.append(Breach(condition.text, "every point", "no request has finished"))
        for key in keys:
            known = {name: lookup(name, key) for name in condition.names}
            reason = _judge_one(condition, known)
            if reason:
                breaches.append(Breach(condition.text, str(key), reason))
    return tuple(breaches)


def _judge_one(condition: Condition, known: Mapping[str, float | None]) -> str:
    """Say why a condition is breached by the values of one point; empty when it is not."""
    try:
        if not condition.holds(known.get):
            return ""
    except UnknownValueError as error:
        return f"it cannot be judged: {error}"
    return "it is true: " + ", ".join(f"{name} = {v:.6g}" for name, v in known.items() if v is not None)


def find_breaches(
    conditions: Iterable[Condition], results: Sequence[Result], plan: TtftPlan | None = None
) -> tuple[Breach, ...]:
    """Judge conditions at every point of one run.

    Raises:
        InputError: A condition asks for the plan and there is none.
    """
    conditions = tuple(conditions)
    if plan is None:
        refuse_without_plan(conditions)
    groups = group_points(results)

    def lookup(name: str, key: PointKey) -> float | None:
        return lookup_point(name, groups[key], None if plan is None else plan.at(key.context))

    return judge(conditions, groups, lookup)


def judge_run(
    conditions: Sequence[Condition], folder: Path, engine: str | None, results: Sequence[Result]
) -> tuple[Breach, ...]:
    """Judge conditions on a run that has just ended, with the plan it holds."""
    return find_breaches(conditions, results, find_plan(folder, engine) or TtftPlan({}))


def refuse_without_plan(conditions: Iterable[Condition]) -> None:
    """Refuse conditions about the plan, of either side, where none is given.

    Raises:
        InputError: One of them names the plan.
    """
    for condition in conditions:
        if any("plan" in name.split(".")[:2] for name in condition.names):
            raise InputError(f"{condition.text!r} asks for the plan", "give one with --plan")
