"""Prefill seconds over context, fitted to measured prompts, and what they say of a longer one.

A prompt of N tokens takes a N for the weights and b N^2 for attention, and where the measurements ask for it a
constant. Terms are never negative. A run is assumed to repeat within 3 % and 0.075 s, as prompts of one rank on one
H200 did: a long prompt does not drown the short ones, and a short one, most of which is launching and the way of its
first token, says little of a long one. A few points say little of their own error: that assumption counts as much as
four of them. The interval has two parts: how far the terms may be wrong, which grows with the distance from what was
measured, and how far one more run may be from its mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from farspan.errors import InputError
from farspan.sizes import format_tokens

# How far one run of a prompt is from the next: a share of its time, and seconds besides.
RUN_ERROR, RUN_SECONDS = 0.03, 0.075
_ASSUMED_POINTS = 4
_BESIDES_S = RUN_SECONDS / RUN_ERROR
_POINTS_FOR_CONSTANT = 4
# 97.5 % quantiles of Student's t, from one degree of freedom on.
_STUDENT = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
_NORMAL = 1.96


class PrefillPoint(NamedTuple):
    """A measured prompt.

    Args:
        tokens: Its length.
        seconds: What its prefill took, the queue left out.
    """

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """Prefill of a prompt that was not measured, in seconds.

    Args:
        tokens: Its length.
        seconds: What the fit says.
        low_s, high_s: Where one run lies in 95 of 100 cases, as far as the points tell.
        reach: Its length over the longest that was measured.
        basis: How the interval was reached, in words.
    """

    tokens: int
    seconds: float
    low_s: float
    high_s: float
    reach: float
    basis: str


@dataclass(frozen=True, slots=True)
class PrefillFit:
    """Seconds of a prompt's prefill: `constant_s + linear_s N + quadratic_s N^2`, no term negative.

    Args:
        constant_s: Seconds whatever the length; 0 unless the points ask for it.
        linear_s: Seconds a token.
        quadratic_s: Seconds a pair of tokens.
        relative_error: Standard error of a long prompt beside the fit, relative; None where there are no more points
            than terms, which fit exactly.
        error: The same with what is assumed of a run.
        points: What was fitted.
        terms: Powers of N that were fitted.
        covariance: Of those terms, for a relative error of one.
    """

    constant_s: float
    linear_s: float
    quadratic_s: float
    relative_error: float | None
    error: float
    points: tuple[PrefillPoint, ...]
    terms: tuple[int, ...]
    covariance: tuple[tuple[float, ...], ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest measured prompt."""
        return max(point.tokens for point in self.points)

    def seconds(self, tokens: int) -> float:
        """What the fit says of a prompt of `tokens`."""
        return self.constant_s + self.linear_s * tokens + self.quadratic_s * tokens * tokens

    def extrapolate(self, tokens: int) -> Extrapolation:
        """The prefill of another prompt, with an interval that widens away from what was measured.

        No term is negative: beyond the longest prompt the time grows at least linearly and at most with the square, and
        the interval stays within that.
        """
        expected, longest = self.seconds(tokens), self.longest
        reach = tokens / longest
        slowest, fastest = self._bounds(tokens)
        powers = [float(tokens) ** power for power in self.terms]
        of_terms = sum(
            powers[i] * powers[j] * self.covariance[i][j]
            for i in range(len(powers))
            for j in range(len(powers))
        )
        freedom = len(self.points) - len(self.terms) + _ASSUMED_POINTS
        student = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL
        noise = student * self.error
        half = noise * math.sqrt(max(0.0, of_terms) + (expected + _BESIDES_S) ** 2)
        low = max(expected - half, fastest * (1 - noise), 0.0)
        high = min(expected + half, slowest * (1 + noise))
        basis = (
            f"95 % by Student's t: {len(self.points)} prompts beside the assumption that one repeats within "
            f"{RUN_ERROR:.0%} and {RUN_SECONDS:g} s, {reach:.1f} times the longest prompt"
        )
        return Extrapolation(tokens, expected, min(low, expected), max(high, expected), reach, basis)

    def _bounds(self, tokens: int) -> tuple[float, float]:
        """The most and the least that terms which are not negative allow, given the time at the longest prompt; the
        other way round below it."""
        longest = self.longest
        ratio, growing = tokens / longest, self.seconds(longest) - self.constant_s
        ends = (self.constant_s + growing * ratio, self.constant_s + growing * ratio * ratio)
        return max(ends), min(ends)

    def describe(self) -> str:
        """The fit in words, N in millions of tokens."""
        parts = []
        if self.constant_s:
            parts.append(f"{self.constant_s:.3g} s")
        if self.linear_s:
            parts.append(f"{self.linear_s * 1e6:.3g} N")
        if self.quadratic_s:
            parts.append(f"{self.quadratic_s * 1e12:.3g} N^2")
        error = (
            "as many points as terms"
            if self.relative_error is None
            else f"standard error {self.relative_error:.1%}"
        )
        return f"{' + '.join(parts)} seconds, N in millions of tokens; {len(self.points)} prompts, {error}"


def fit_prefill(points: Sequence[PrefillPoint | tuple[int, float]]) -> PrefillFit:
    """Fit seconds of prefill to measured prompts.

    Two lengths at least; of three or more points an error can be seen. A constant is added from four points on, and
    only where an F test at 5 % wants it.

    Args:
        points: Lengths and seconds; several of one length are repeats.

    Raises:
        InputError: There are fewer than two different lengths, or a point is not positive.
    """
    measured = tuple(PrefillPoint(int(tokens), float(seconds)) for tokens, seconds in points)
    for tokens, seconds in measured:
        if tokens < 1 or not (0 < seconds < math.inf):
            raise InputError(
                f"a prompt of {tokens} tokens in {seconds:g} s cannot be fitted", "measure it again"
            )
    lengths = sorted({point.tokens for point in measured})
    if len(lengths) < 2:
        found = ", ".join(format_tokens(length) for length in lengths) or "none"
        raise InputError(
            f"prefill is fitted to prompts of two different lengths at least, three for an error; measured: {found}",
            "measure more --contexts",
        )
    plain = _best(measured, ((1, 2), (1,), (2,)))
    chosen = plain
    if len(measured) >= _POINTS_FOR_CONSTANT and len(lengths) >= _POINTS_FOR_CONSTANT - 1:
        with_constant = _best(measured, ((0, 1, 2), (0, 1), (0, 2)))
        if _wants(with_constant, plain, len(measured)):
            chosen = with_constant
    assert chosen is not None  # one term alone is always positive
    terms, values, residual, covariance = chosen
    by_power = dict(zip(terms, values, strict=True))
    freedom = len(measured) - len(terms)
    assumed = _ASSUMED_POINTS * RUN_ERROR**2
    return PrefillFit(
        by_power.get(0, 0.0),
        by_power.get(1, 0.0),
        by_power.get(2, 0.0),
        math.sqrt(residual / freedom) if freedom else None,
        math.sqrt((residual + assumed) / (freedom + _ASSUMED_POINTS)),
        measured,
        terms,
        covariance,
    )


def weigh_run(seconds: float) -> float:
    """What a run weighs in a fit of relative errors: 1 for a long one, less the more of it is not its length's."""
    return seconds / (seconds + _BESIDES_S)


class _Solution(NamedTuple):
    terms: tuple[int, ...]
    values: tuple[float, ...]
    residual: float
    covariance: tuple[tuple[float, ...], ...]


def _best(points: Sequence[PrefillPoint], candidates: Sequence[tuple[int, ...]]) -> _Solution | None:
    """The terms with the least weighted squares of those whose values are not negative."""
    solved = (_solve(points, terms) for terms in candidates)
    good = [one for one in solved if one is not None and min(one.values) >= 0]
    return min(good, key=lambda one: (one.residual, len(one.terms)), default=None)


def _wants(larger: _Solution | None, smaller: _Solution | None, count: int) -> bool:
    """Whether the F test at 5 % prefers the terms with a constant."""
    if larger is None or smaller is None or larger.values[0] <= 0:
        return False
    freedom = count - len(larger.terms)
    if freedom < 1:
        return False
    gain = smaller.residual - larger.residual
    student = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL
    # Beneath the least error nothing is asked for.
    return gain > student**2 * max(larger.residual / freedom, (RUN_ERROR / 9) ** 2)


def _solve(points: Sequence[PrefillPoint], terms: tuple[int, ...]) -> _Solution | None:
    """Least weighted squares of some powers of N, by the normal equations in units of the longest prompt."""
    scale = float(max(point.tokens for point in points))
    shares = [weigh_run(point.seconds) for point in points]
    rows = [
        [(point.tokens / scale) ** power / point.seconds * share for power in terms]
        for point, share in zip(points, shares, strict=True)
    ]
    size = len(terms)
    normal = [[math.fsum(row[i] * row[j] for row in rows) for j in range(size)] for i in range(size)]
    right = [math.fsum(row[i] * share for row, share in zip(rows, shares, strict=True)) for i in range(size)]
    inverse = _inverse(normal)
    if inverse is None:
        return None
    values = [math.fsum(inverse[i][j] * right[j] for j in range(size)) for i in range(size)]
    residual = math.fsum(
        (math.fsum(v * x for v, x in zip(values, row, strict=True)) - share) ** 2
        for row, share in zip(rows, shares, strict=True)
    )
    units = [scale**power for power in terms]
    return _Solution(
        terms,
        tuple(value / unit for value, unit in zip(values, units, strict=True)),
        residual,
        tuple(tuple(inverse[i][j] / units[i] / units[j] for j in range(size)) for i in range(size)),
    )


def _inverse(matrix: list[list[float]]) -> list[list[float]] | None:
    """The inverse of a small symmetric matrix; None where it has none."""
    size = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    largest = max(abs(value) for row in matrix for value in row)
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        if abs(rows[pivot][column]) <= 1e-12 * largest:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for other in range(size):
            if other != column:
                factor = rows[other][column]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[column], strict=True)]
    return [row[size:] for row in rows]
