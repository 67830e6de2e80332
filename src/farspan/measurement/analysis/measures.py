"""The measures of a request and of a point by name: what `farspan compare` compares and `--fail-if` can ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from farspan.errors import InputError
from farspan.measurement.analysis.measure import Result
from farspan.measurement.analysis.plan_times import PlannedTtft
from farspan.measurement.analysis.statistics import statistic
from farspan.measurement.analysis.threshold import Condition, parse_condition
from farspan.measurement.analysis.trusted import is_trusted
from farspan.measurement.request_status import Status
from farspan.measurement.schedule import LoadPhase


def gaps_s(result: Result) -> tuple[float, ...]:
    """Return every gap between two events with tokens, in seconds."""
    times = result.token_times_s
    return tuple(later - earlier for earlier, later in pairwise(times))


# One value a request. Seconds, except rates (tokens a second) and counts.
PER_REQUEST: dict[str, Callable[[Result], float | None]] = {
    "ttft": lambda result: result.ttft_s,
    "tpot": lambda result: result.tpot_s,
    "e2e": lambda result: result.e2e_s if result.ttft_s is not None else None,
    "prefill_rate": lambda result: result.prefill_tokens_per_s,
    "decode_rate": lambda result: result.decode_tokens_per_s,
    "queue": lambda result: result.queue_s,
}
_ALIASES = {"e2el": "e2e", "plan.ttft": "plan"}
_COUNTS = ("requests", "failed", "trusted", "score")
_PLAN = ("plan", "plan.floor")
_NAMES = (
    f"<measure>.<statistic> with {', '.join((*PER_REQUEST, 'itl'))} and mean, median, min, max, std or pNN; "
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
    if _ALIASES.get(measure, measure) in (*PER_REQUEST, "itl"):
        try:
            statistic((1.0,), stat or "median")
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
    """Return a named value of all requests of one context and depth; None when it is not known.

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
    measure, _, stat = name.partition(".")
    return statistic(values_of(_ALIASES.get(measure, measure), results), stat or "median")


def values_of(measure: str, results: Sequence[Result]) -> list[float]:
    """Return a measure's values over the trusted requests: one a request, of `itl` every gap."""
    trusted = [result for result in results if is_trusted(result)]
    if measure == "itl":
        return [gap for result in trusted for gap in gaps_s(result)]
    values = (PER_REQUEST[measure](result) for result in trusted)
    return [value for value in values if value is not None]


def group_points(results: Sequence[Result]) -> dict[tuple[int, float], list[Result]]:
    """Group the measured requests by context and depth, in ascending order."""
    groups: dict[tuple[int, float], list[Result]] = {}
    for result in sorted((r for r in results if r.phase is LoadPhase.MEASURED), key=_place):
        groups.setdefault((result.context, result.depth), []).append(result)
    return groups


def _place(result: Result) -> tuple[Any, ...]:
    return (result.context, result.depth, result.repeat)


def _count(name: str, results: Sequence[Result]) -> float | None:
    if name == "requests":
        return float(len(results))
    if name == "failed":
        return float(sum(result.status is not Status.OK for result in results))
    if name == "trusted":
        return float(sum(is_trusted(result) for result in results))
    scores = [result.score for result in results if result.score is not None]
    return fmean(scores) if scores else None
