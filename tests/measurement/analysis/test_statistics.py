"""Intervals, against published tables and by simulation."""

from __future__ import annotations

import math
import random
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.measurement.analysis.statistics import (
    paired_ratio,
    percentile,
    statistic,
    t_quantile,
    unpaired_ratio,
)

times = st.floats(1e-3, 1e4)


@pytest.mark.parametrize(
    ("freedom", "level", "t"),
    # Any textbook's table of Student's t, two-sided.
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (4, 0.95, 2.776),
        (9, 0.99, 3.250),
        (30, 0.90, 1.697),
        (120, 0.95, 1.980),
    ],
)
def test_students_t_is_the_tables(freedom: int, level: float, t: float) -> None:
    assert t_quantile(freedom, level) == pytest.approx(t, abs=6e-4)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Simulated: three pairs of a ratio 1.2 with noise of 10 %, 2,000 times."""
    noise = random.Random(1)
    held = 0
    for _ in range(2000):
        pairs = [(1.0, 1.2 * math.exp(noise.gauss(0, 0.1))) for _ in range(3)]
        found = paired_ratio(pairs)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.2 <= found.high
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


def test_groups_hold_the_truth_too() -> None:
    noise = random.Random(2)
    held = 0
    for _ in range(1000):
        a = [math.exp(noise.gauss(0, 0.1)) for _ in range(4)]
        b = [1.2 * math.exp(noise.gauss(0, 0.3)) for _ in range(6)]
        found = unpaired_ratio(a, b)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.2 <= found.high
    assert held / 1000 >= 0.94, "rounded down degrees of freedom never make it too narrow"


@given(st.lists(st.tuples(times, times), min_size=2, max_size=20))
def test_a_ratio_lies_in_its_interval_and_turns_round(pairs: list[tuple[float, float]]) -> None:
    one, other = paired_ratio(pairs), paired_ratio([(b, a) for a, b in pairs])
    assert one is not None
    assert other is not None
    assert one.low is not None
    assert one.high is not None
    assert other.high is not None
    assert one.low <= one.ratio * (1 + 1e-9)
    assert one.ratio <= one.high * (1 + 1e-9)
    assert one.ratio == pytest.approx(1 / other.ratio)
    assert one.low == pytest.approx(1 / other.high, rel=1e-6) or one.high > 1e300


def test_pairing_removes_what_the_prompts_differ_in() -> None:
    pairs = [(1.0, 1.1), (10.0, 11.1), (100.0, 109.0)]
    paired = paired_ratio(pairs)
    groups = unpaired_ratio([a for a, _ in pairs], [b for _, b in pairs])
    assert paired is not None
    assert groups is not None
    assert paired.low is not None
    assert paired.low > 1.0
    assert groups.low is not None
    assert groups.low < 0.01


def test_too_few_values_have_no_interval() -> None:
    alone = paired_ratio([(2.0, 3.0)])
    assert alone is not None
    assert (alone.ratio, alone.low, alone.count) == (1.5, None, 1)
    assert paired_ratio([]) is None
    assert paired_ratio([(0.0, 1.0)]) is None
    assert unpaired_ratio([], [1.0]) is None
    one = unpaired_ratio([1.0], [2.0, 4.0])
    assert one is not None
    assert (one.low, one.count) == (None, 1)


@given(st.lists(times, min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(float(np.percentile(values, share)), rel=1e-9)


def test_statistics_by_name() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert statistic(values, "p50") == statistic(values, "median") == median(values)
    assert statistic(values, "std") == pytest.approx(float(np.std(values, ddof=1)))
    assert statistic([], "p99") is None
    for name in ("p101", "px", "variance", "p-1", ""):
        with pytest.raises(KeyError):
            statistic(values, name)
