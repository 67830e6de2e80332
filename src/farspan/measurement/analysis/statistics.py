"""Ratios with confidence intervals, by Student's t on logarithms.

Times are ratios of each other ("20 % slower"), never negative and skewed to the right: their logarithms are close to
normal, and a difference of logarithms is a ratio. Student's t stays honest at the three repeats that a 10M context
allows, where a bootstrap of three values is far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median, stdev, variance


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as large B is as A.

    Args:
        ratio: The geometric mean of B over A.
        low, high: Its confidence interval; None with fewer than two pairs (or values on either side).
        count: Pairs, or the smaller number of values when they are not paired.
        paired: Whether each value of B is compared with the value of A for the same prompt.
    """

    ratio: float
    low: float | None
    high: float | None
    count: int
    paired: bool


def paired_ratio(pairs: Sequence[tuple[float, float]], level: float = 0.95) -> Ratio | None:
    """Compare (a, b) pairs: the mean of log(b / a) and its t interval; None without a pair above 0.

    Pairs that hold a 0 or less are left out: they have no logarithm.
    """
    logs = [math.log(b / a) for a, b in pairs if a > 0 and b > 0]
    if not logs:
        return None
    if len(logs) < 2:
        return Ratio(math.exp(logs[0]), None, None, 1, True)
    half = t_quantile(len(logs) - 1, level) * math.sqrt(variance(logs) / len(logs))
    return _interval(fmean(logs), half, len(logs), True)


def unpaired_ratio(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Ratio | None:
    """Compare two groups by Welch's t interval on logarithms; None when one has no value above 0."""
    x, y = ([math.log(value) for value in values if value > 0] for values in (a, b))
    if not x or not y:
        return None
    centre, count = fmean(y) - fmean(x), min(len(x), len(y))
    if count < 2:
        return Ratio(math.exp(centre), None, None, count, False)
    vx, vy = variance(x) / len(x), variance(y) / len(y)
    if vx + vy == 0:
        return _interval(centre, 0.0, count, False)
    # Welch and Satterthwaite's degrees of freedom, rounded down: the interval is never too narrow.
    freedom = (vx + vy) ** 2 / (vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1))
    return _interval(centre, t_quantile(max(1, int(freedom)), level) * math.sqrt(vx + vy), count, False)


def _interval(centre: float, half: float, count: int, paired: bool) -> Ratio:
    low, high = math.exp(centre - half), math.exp(min(centre + half, 700.0))
    return Ratio(math.exp(centre), low, high, count, paired)


@lru_cache(maxsize=1024)
def t_quantile(freedom: int, level: float) -> float:
    """Return the t for which a share `level` of Student's distribution lies within -t to t.

    Args:
        freedom: Degrees of freedom, 1 or more.
        level: 0 to 1, both excluded.
    """
    low, high = 0.0, 1.0
    while _t_within(high, freedom) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if _t_within(middle, freedom) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_within(t: float, freedom: int) -> float:
    """Return the share of Student's distribution within -t to t, in closed form for whole degrees of freedom.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term = total = cosine if freedom > 1 else 0.0
        for k in range(2, freedom - 2, 2):
            term *= cosine * cosine * k / (k + 1)
            total += term
        return 2 / math.pi * (angle + sine * total)
    term = total = 1.0
    for k in range(1, freedom - 2, 2):
        term *= cosine * cosine * k / (k + 1)
        total += term
    return sine * total


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile, `share` from 0 to 100, linear between the two nearest values as numpy has it."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def statistic(values: Sequence[float], name: str) -> float | None:
    """Return `mean`, `median`, `min`, `max`, `std` (the sample's) or `pNN`; None without values, and `std` of one.

    Raises:
        KeyError: There is no such statistic.
    """
    if name.startswith("p") and _is_share(name[1:]):
        return percentile(values, float(name[1:])) if values else None
    if name not in _STATISTICS:
        raise KeyError(name)
    return _STATISTICS[name](values) if len(values) > (name == "std") else None


def _is_share(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal() and 0 <= float(text) <= 100


_STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": fmean,
    "median": median,
    "min": min,
    "max": max,
    "std": stdev,
}
