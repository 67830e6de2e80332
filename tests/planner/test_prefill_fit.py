"""Prefill seconds over context: the terms, their error, and what they say of longer prompts."""

from __future__ import annotations

import random

import pytest

from farspan.errors import InputError
from farspan.planner.prefill_fit import PrefillPoint, fit_prefill

# One rank of Scout alone on one H200, vLLM 0.24.0, as measured.
RANK = ((65_536, 1.371), (1_048_576, 43.908))


def test_two_points_are_met_exactly_and_bounded() -> None:
    fit = fit_prefill(RANK)
    assert fit.constant_s == 0
    for tokens, seconds in RANK:
        assert fit.seconds(tokens) == pytest.approx(seconds, rel=1e-9)
    assert fit.relative_error is None
    ten = fit.extrapolate(10_000_000)
    ratio = 10_000_000 / 1_048_576
    assert 43.908 * ratio < ten.low_s < ten.seconds < ten.high_s < 43.908 * ratio**2
    assert ten.reach == pytest.approx(9.5367, rel=1e-4)
    assert "2 prompts beside the assumption that one repeats within 3%" in ten.basis


def test_published_runs_of_a_whole_deployment() -> None:
    # vLLM 0.12.0 on 8x H200: 11.0 N + 37.5 N^2 describes them within 3.5 %.
    fit = fit_prefill(((2_845_646, 334.91), (4_908_091, 957.07), (6_378_187, 1542.0)))
    assert fit.relative_error is not None
    assert 0 < fit.relative_error < 0.035
    assert fit.quadratic_s * 1e12 == pytest.approx(37.5, rel=0.1)
    for tokens, seconds in fit.points:
        assert fit.seconds(tokens) == pytest.approx(seconds, rel=0.035)


def test_no_term_is_negative() -> None:
    faster_than_linear = fit_prefill(((1000, 1.0), (2000, 1.9), (4000, 3.6)))
    assert faster_than_linear.quadratic_s == 0
    assert faster_than_linear.linear_s > 0
    steeper_than_square = fit_prefill(((1000, 1.0), (2000, 5.0), (4000, 24.0)))
    assert steeper_than_square.linear_s == 0
    assert steeper_than_square.quadratic_s > 0


def test_a_constant_where_the_points_want_it() -> None:
    lengths = (1000, 10_000, 50_000, 100_000, 200_000)
    with_constant = fit_prefill([(n, 0.5 + 1e-5 * n + 1e-10 * n * n) for n in lengths])
    assert with_constant.constant_s == pytest.approx(0.5, rel=1e-6)
    assert with_constant.linear_s == pytest.approx(1e-5, rel=1e-6)
    without = fit_prefill([(n, 1e-5 * n + 1e-10 * n * n) for n in lengths])
    assert without.constant_s == 0
    assert without.quadratic_s == pytest.approx(1e-10, rel=1e-6)


def test_the_interval_holds_and_widens() -> None:
    generator = random.Random(7)
    inside = total = 0
    for _ in range(200):
        points = [
            (n, (1e-5 * n + 4e-11 * n * n) * generator.gauss(1, 0.03))
            for n in (65_536, 131_072, 262_144, 524_288, 1_048_576)
        ]
        fit = fit_prefill(points)
        truth = (1e-5 * 10_000_000 + 4e-11 * 10_000_000**2) * generator.gauss(1, 0.03)
        far = fit.extrapolate(10_000_000)
        inside += far.low_s <= truth <= far.high_s
        total += 1
        widths = []
        for tokens in (1_048_576, 2_000_000, 5_000_000, 10_000_000):
            one = fit.extrapolate(tokens)
            assert one.low_s <= one.seconds <= one.high_s
            widths.append((one.high_s - one.low_s) / one.seconds)
        assert widths == sorted(widths)
    assert inside / total >= 0.9


def test_repeats_of_one_length_are_not_two_lengths() -> None:
    with pytest.raises(InputError, match=r"two different lengths.*measured: 64Ki"):
        fit_prefill([(65_536, 1.3), (65_536, 1.4)])
    with pytest.raises(InputError, match="measured: none"):
        fit_prefill([])
    with pytest.raises(InputError, match="cannot be fitted"):
        fit_prefill([(1000, 1.0), (2000, 0.0)])
    with pytest.raises(InputError, match="cannot be fitted"):
        fit_prefill([(1000, 1.0), (2000, float("inf"))])


def test_three_points_have_an_error() -> None:
    fit = fit_prefill([PrefillPoint(1000, 1.0), PrefillPoint(2000, 2.2), PrefillPoint(4000, 5.0)])
    assert fit.relative_error is not None
    far = fit.extrapolate(40_000)
    assert "3 prompts beside the assumption" in far.basis
    assert far.high_s > far.seconds > far.low_s > 0
    assert "N in millions" in fit.describe()


def test_shorter_prompts_are_bounded_too() -> None:
    near = fit_prefill(RANK).extrapolate(262_144)
    assert near.low_s * 1.2 > 43.908 / 16 * 0.8
    assert near.low_s < near.seconds < near.high_s


def test_a_few_rehearsed_prompts_say_something_of_ten_times_their_length() -> None:
    # One rank of Scout, vLLM 0.24.0 eager on one H200: most of the shortest is launching, and it counts for little.
    fit = fit_prefill(((8_000, 0.1623), (256_000, 5.14), (1_000_000, 42.2)))
    assert fit.seconds(256_000) == pytest.approx(5.14, rel=0.01)
    assert fit.seconds(1_000_000) == pytest.approx(42.2, rel=0.01)
    ten = fit.extrapolate(10_000_000)
    assert 0.8 * ten.seconds < ten.low_s < ten.high_s < 1.2 * ten.seconds


def test_points_that_no_term_describes_widen_it() -> None:
    # SGLang's triton kernels slow down with the length: 15 times as long for four times the tokens.
    fit = fit_prefill(((8_000, 0.184), (64_000, 2.59), (256_000, 39.6)))
    calm = fit_prefill(((8_000, 0.17), (64_000, 2.9), (256_000, 36.0)))
    assert fit.error > calm.error
    assert fit.relative_error is not None
    assert fit.relative_error > 0.04
