"""The one bisection: its contract, and how often it asks."""

from __future__ import annotations

import pytest

from farspan.planner.bisection import last_holding


@pytest.mark.parametrize("high", [0, 1, 2, 7, 100])
def test_every_border_is_found(high: int) -> None:
    for low in (0, 1, 5):
        for border in range(low - 1, high + 1):
            found = last_holding(low, high, lambda number, border=border: number <= border)
            assert found == max(low - 1, border)


def test_nothing_is_asked_of_an_empty_range() -> None:
    assert last_holding(5, 4, lambda number: number == 1 // 0) == 4


def test_no_number_is_asked_twice_and_the_first_is_the_lowest() -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number <= 123_456

    assert last_holding(201, 10_000_000, holds) == 123_456
    assert asked[0] == 201
    assert len(set(asked)) == len(asked) <= 26
