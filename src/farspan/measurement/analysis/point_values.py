"""The named values of a point, such as `ttft.p50`: what `--fail-if` can ask for."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from farspan.errors import InputError
from farspan.measurement.analysis.measures import MEASURES, find_measure, list_values
from farspan.measurement.analysis.plan_times import PlannedTtft
from farspan.measurement.analysis.statistics import statistic
from farspan.measurement.analysis.threshold import Condition, parse_condition
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result

_ALIASES = {"plan.ttft": "plan"}
_COUNTS = ("requests", "failed", "trusted", "score")
_PLAN = ("plan", "plan.floor")
_NAMES = (
    f"<measure>.<statistic> with {', '.join(MEASURES)} and mean, median, min, max, std or pNN; "
    f"{', '.join(_COUNTS)}; labels.<label>; plan, plan.floor"
)


def check_name(name: str) -> None:
    """Refuse a name that no point has.

    Raises:
        InputError: It is none of them; the message lists them.
    """
    if name.startswith("labels.") or name in _COUNTS or _ALIASES.get(name, name) in _PLAN:
        return
    measure, _, stat = name.partition(".")
    if find_measure(measure) is not None:
        try:
            statistic((1.0, 1.0), stat or "median")
        except KeyError:
            raise InputError(f"{stat!r} in {name!r} is not a statistic", f"known are {_NAMES}") from None
        return
    raise InputError(f"{name!r} is not a measure", f"known are {_NAMES}")


def parse_point_condition(text: str) -> Condition:
    """Parse a condition about the points of one run, so that a typo shows before anything is sent.

    Raises:
        InputError: It does not follow the grammar, or names what no point has.
    """
    condition = parse_condition(text)
    for name in condition.names:
        check_name(name)
    return condition


def lookup_point(name: str, results: Sequence[Result], plan: PlannedTtft | None = None) -> float | None:
    """Return a named value of all requests of one point; None when it is not known.

    Times are taken from the requests they can be trusted for: answered, of the right length, not warm.

    Raises:
        InputError: There is no such name.
    """
    check_name(name)
    name = _ALIASES.get(name, name)
    if name in _PLAN:
        return None if plan is None else plan.expected_s if name == "plan" else plan.floor_s
    if name.startswith("labels."):
        label = name.removeprefix("labels.").replace("_", "-")
        return float(sum(label in result.labels for result in results))
    if name in _COUNTS:
        return _count(name, results)
    named, _, stat = name.partition(".")
    measure = find_measure(named)
    trusted = [result for result in results if result.is_trusted]
    return None if measure is None else statistic(list_values(measure, trusted), stat or "median")


def _count(name: str, results: Sequence[Result]) -> float | None:
    if name == "requests":
        return float(len(results))
    if name == "failed":
        return float(sum(result.status is not Status.OK for result in results))
    if name == "trusted":
        return float(sum(result.is_trusted for result in results))
    scores = [result.recall for result in results if result.recall is not None]
    return fmean(scores) if scores else None
