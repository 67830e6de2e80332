"""Two runs side by side: how many times as large B is as A, with a confidence interval, point by point.

Requests with the same prompt are paired: their difference is free of what the prompts differ in. Runs with other
prompts, such as imported ones, are compared as two groups.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

from farspan.errors import InputError
from farspan.measurement.analysis.breaches import Breach, judge, refuse_without_plan
from farspan.measurement.analysis.measures import COMPARED_MEASURES, PointKey, RequestMeasure, group_points
from farspan.measurement.analysis.plan_beside_run import TtftPlan
from farspan.measurement.analysis.point_values import check_name, lookup_point
from farspan.measurement.analysis.statistics import Ratio, paired_ratio, unpaired_ratio
from farspan.measurement.analysis.threshold import Condition, parse_condition
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import IMPORTED_TASK, Run

LEVEL = 0.95
_RATIO_PARTS = ("", "low", "high")
_SIDES = {"a": 0, "b": 1}


class Difference(StrEnum):
    """What a ratio's interval proves."""

    HIGHER = "higher"
    LOWER = "lower"
    OPEN = "no difference shown"
    UNKNOWN = "too few to tell"


@dataclass(frozen=True, slots=True)
class Row:
    """One measure at one context and depth, of run A and run B.

    Args:
        depth: None for all depths together, where one of the runs is an imported one and has none.
        a, b: Medians over the trusted requests; None when there is none.
        ratio: B over A with its interval; None when one side has no value.
    """

    context: int
    depth: float | None
    measure: str
    a: float | None
    b: float | None
    ratio: Ratio | None
    concurrency: int | None = None
    warm: bool | None = None

    @property
    def verdict(self) -> Difference:
        """Say whether B is higher or lower: only when the whole interval says so."""
        ratio = self.ratio
        if ratio is None or ratio.low is None or ratio.high is None:
            return Difference.UNKNOWN
        if ratio.low > 1:
            return Difference.HIGHER
        return Difference.LOWER if ratio.high < 1 else Difference.OPEN


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs compared.

    Args:
        rows: Every measure at every context and depth that both runs have.
        only_a, only_b: Contexts and depths of one run alone.
        notes: What makes the comparison weaker than it looks, one sentence each.
        level: Of the confidence intervals.
    """

    rows: tuple[Row, ...]
    only_a: tuple[PointKey, ...]
    only_b: tuple[PointKey, ...]
    notes: tuple[str, ...]
    level: float = LEVEL


@dataclass(frozen=True, slots=True)
class RunComparison:
    """The result of `farspan compare`.

    Args:
        a, b: The run folders.
        comparison: B against A.
        breaches: Which of the conditions hold somewhere, or cannot be judged.
    """

    a: Path
    b: Path
    comparison: Comparison
    breaches: tuple[Breach, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 when a condition is breached, else 0."""
        return int(bool(self.breaches))

    def to_json(self) -> dict[str, Any]:
        """Every row with its verdict, the notes and the breaches, as plain data."""
        compared = self.comparison
        return {
            "a": str(self.a),
            "b": str(self.b),
            **asdict(compared),
            "only_a": [list(point[:2]) for point in compared.only_a],
            "only_b": [list(point[:2]) for point in compared.only_b],
            "rows": [asdict(row) | {"verdict": row.verdict.value} for row in compared.rows],
            "fired": [asdict(breach) for breach in self.breaches],
        }


def compare_runs(a: Run, b: Run, *, level: float = LEVEL) -> Comparison:
    """Compare run B with run A.

    Raises:
        InputError: They have no context and depth in common.
    """
    points_a, points_b = _group(a, b)
    shared = [point for point in points_a if point in points_b]
    if not shared:
        raise InputError(
            f"{a.folder} and {b.folder} have no context and depth in common",
            f"compare runs of the same --contexts; A has {_name(points_a)}, B has {_name(points_b)}",
        )
    rows = [
        Row(
            point.context,
            point.depth,
            measure.name,
            _middle(measure, points_a[point]),
            _middle(measure, points_b[point]),
            _ratio(measure, points_a[point], points_b[point], level),
            point.concurrency,
            point.warm,
        )
        for point in shared
        for measure in COMPARED_MEASURES
    ]
    return Comparison(
        rows=tuple(row for row in rows if row.a is not None or row.b is not None),
        only_a=tuple(point for point in points_a if point not in points_b),
        only_b=tuple(point for point in points_b if point not in points_a),
        notes=tuple(_find_notes(a, b, rows)),
        level=level,
    )


def parse_comparison_condition(text: str) -> Condition:
    """Parse a condition about two runs: names as for one run are B's, `a.` names are A's, `ratio.<measure>` is B over
    A, `ratio.<measure>.low` and `.high` the ends of its interval.

    Raises:
        InputError: It does not follow the grammar, or there is no such name.
    """
    condition = parse_condition(text)
    for name in condition.names:
        first, _, rest = name.partition(".")
        if first == "ratio":
            measure, _, part = rest.partition(".")
            known = [compared.name for compared in COMPARED_MEASURES]
            if measure not in known or part not in _RATIO_PARTS:
                raise InputError(
                    f"{name!r} is not a ratio", f"write ratio.ttft, .low or .high of {', '.join(known)}"
                )
        else:
            check_name(rest if first in _SIDES else name)
    return condition


def find_comparison_breaches(
    conditions: Iterable[Condition], a: Run, b: Run, comparison: Comparison, plan: TtftPlan | None = None
) -> tuple[Breach, ...]:
    """Judge conditions at every point both runs have. What cannot be judged is a breach.

    Raises:
        InputError: A condition asks for the plan and there is none.
    """
    conditions = tuple(conditions)
    if plan is None:
        refuse_without_plan(conditions)
    sides = _group(a, b)
    rows = {(row.context, row.depth, row.concurrency, row.warm, row.measure): row for row in comparison.rows}

    def lookup(name: str, point: PointKey) -> float | None:
        first, _, rest = name.partition(".")
        if first == "ratio":
            measure, _, part = rest.partition(".")
            row = rows.get((*point, measure))
            return None if row is None else getattr(row.ratio, part or "ratio", None)
        side = sides[_SIDES.get(first, 1)]
        planned = None if plan is None else plan.at(point.context)
        return lookup_point(rest if first in _SIDES else name, side[point], planned)

    return judge(conditions, [point for point in sides[0] if point in sides[1]], lookup)


def _group(a: Run, b: Run) -> tuple[dict[PointKey, list[Result]], dict[PointKey, list[Result]]]:
    """Group both runs' requests; all depths together when one run was imported: nothing is planted in other tools'
    prompts.
    """
    together = any(run.info.identity.task == IMPORTED_TASK for run in (a, b))
    return group_points(a.results, all_depths=together), group_points(b.results, all_depths=together)


def _middle(measure: RequestMeasure, results: Sequence[Result]) -> float | None:
    values = [value for _, value in _values(measure, results)]
    return median(values) if values else None


def _values(measure: RequestMeasure, results: Sequence[Result]) -> list[tuple[Hashable, float]]:
    """List the trusted values of a measure, each with the prompt it belongs to."""
    listed = []
    for result in results:
        value = measure.value(result) if result.is_trusted else None
        if value is not None:
            listed.append((_prompt(result), value))
    return listed


def _prompt(result: Result) -> Hashable:
    """Return what tells a request's prompt from others: its hash, or in runs without it the job it was built for.
    Imported requests have none in common with anything.
    """
    return None if "imported" in result.labels else result.prompt_id or result.job


def _ratio(measure: RequestMeasure, a: Sequence[Result], b: Sequence[Result], level: float) -> Ratio | None:
    values_a, values_b = _values(measure, a), _values(measure, b)
    by_prompt = {prompt: value for prompt, value in values_b if prompt is not None}
    pairs = [(value, by_prompt[prompt]) for prompt, value in values_a if prompt in by_prompt]
    # Pairing a few and dropping the rest would throw measurements away.
    if pairs and 2 * len(pairs) >= min(len(values_a), len(values_b)):
        return paired_ratio(pairs, level)
    return unpaired_ratio([value for _, value in values_a], [value for _, value in values_b], level)


def _find_notes(a: Run, b: Run, rows: Sequence[Row]) -> Iterable[str]:
    one, two = a.info, b.info
    if one.identity.model != two.identity.model:
        yield f"the models differ: {one.identity.model} and {two.identity.model}"
    for what in ("api", "prompt_as", "task"):
        first, second = getattr(one.identity, what), getattr(two.identity, what)
        if first != second and IMPORTED_TASK not in (first, second):
            yield f"{what.replace('_', ' ')} differs: {first} and {second}"
    for name, info in (("A", one), ("B", two)):
        if info.identity.task == IMPORTED_TASK:
            yield f"{name} was measured by another tool: all depths are taken together, answers were not checked"
    loads = [info.starts[-1].arguments.get("concurrency") for info in (one, two)]
    if loads[0] != loads[1]:
        yield f"the concurrency differs: {loads[0]} and {loads[1]}"
    if any(row.ratio is not None and not row.ratio.paired for row in rows):
        yield "prompts differ: the runs are compared as two groups, not prompt by prompt (same --seed makes them same)"
    if any(row.verdict is Difference.UNKNOWN and row.ratio is not None for row in rows):
        yield "some points have one value a side: run with more --repeats for an interval"
    for name, run in (("A", a), ("B", b)):
        warm = sum("warm" in result.labels for result in run.results)
        untrusted = sum(not result.is_trusted for result in run.results) - warm
        if warm:
            said = f"{warm} of {len(run.results)} requests of {name} were warm and are left out"
            if warm == len(run.results):
                said += ": restart its server or empty its prefix cache, or give each run a --seed of its own"
            yield said
        if untrusted > 0:
            of = f"{untrusted} of {len(run.results)} requests of {name}"
            yield f"{of} failed or have the wrong length and are left out"


def _name(points: Iterable[PointKey]) -> str:
    return "; ".join(map(str, points)) or "none"
