"""What each layer kind must keep, and how much of a hit it leaves usable, against a brute-force oracle."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.kv import interface
from farspan.kv.retention import Interval, LayerRetention, merge, usable

LENGTHS = st.integers(0, 60)
PAGES = st.integers(1, 7)
RULES = st.one_of(
    st.just(LayerRetention()),
    st.builds(LayerRetention, chunk=st.integers(1, 20)),
    st.builds(lambda window: LayerRetention(window=window), st.integers(1, 20)),
)
HELD = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 25)).map(lambda t: (t[0], t[0] + t[1])), max_size=6
)


def attended(rule: LayerRetention, position: int) -> set[int]:
    """Positions a token attends to, itself included, straight from the definition of each kind of attention."""
    if rule.chunk:
        return {j for j in range(position + 1) if j // rule.chunk == position // rule.chunk}
    if rule.window:
        return {j for j in range(position + 1) if position - j < rule.window}
    return set(range(position + 1))


def oracle(kinds: list[tuple[LayerRetention, list[Interval]]], match_length: int, page: int) -> int:
    for length in range(match_length, -1, -1):
        if length % page == 0 and all(
            attended(rule, length) - {length} <= {j for start, stop in held for j in range(start, stop)}
            for rule, held in kinds
        ):
            return length
    raise AssertionError("nothing is always usable")


@given(RULES, LENGTHS)
def test_first_needed_is_the_first_position_attended(rule: LayerRetention, position: int) -> None:
    needed = attended(rule, position)
    assert rule.first_needed(position) == min(needed)
    assert needed == set(range(min(needed), position + 1)), "what is needed has no gaps"


@settings(max_examples=200)
@given(RULES, LENGTHS, HELD, PAGES)
def test_usable_is_the_largest_prefix_one_kind_allows(
    rule: LayerRetention, match_length: int, held: list[Interval], page: int
) -> None:
    assert rule.usable(match_length, held, page) == oracle([(rule, held)], match_length, page)


@settings(max_examples=300)
@given(st.lists(st.tuples(RULES, HELD), max_size=4), LENGTHS, PAGES)
def test_usable_is_the_largest_prefix_all_kinds_allow(
    kinds: list[tuple[LayerRetention, list[Interval]]], match_length: int, page: int
) -> None:
    assert usable(kinds, match_length, page) == oracle(kinds, match_length, page)


@given(HELD)
def test_merge_keeps_the_positions(held: list[Interval]) -> None:
    merged = merge(held)
    assert {j for a, b in merged for j in range(a, b)} == {j for a, b in held for j in range(a, b)}
    assert all(a < b for a, b in merged)
    assert all(before[1] < after[0] for before, after in pairwise(merged))


@pytest.mark.parametrize(
    ("match_length", "held", "expected"),
    [
        (10_000_000, [(9_994_240, 10_000_000)], 10_000_000),  # the last chunk is there
        (10_000_000, [(9_994_241, 10_000_000)], 9_994_240),  # all but its first token: back to its border
        (10_000_000, [], 9_994_240),
        (8_191, [], 0),
        (20_000, [(8_192, 12_000)], 16_384),
    ],
)
def test_llama_4_chunks(match_length: int, held: list[Interval], expected: int) -> None:
    """Scout's chunk of 8192: a border needs nothing, a place behind it all that lies between."""
    assert LayerRetention(chunk=8192).usable(match_length, held) == expected


def test_a_rule_is_one_or_the_other_and_keeps_something() -> None:
    with pytest.raises(InputError, match="not both"):
        LayerRetention(chunk=4, window=4)
    with pytest.raises(InputError, match="keeps nothing"):
        LayerRetention(window=0)
    assert LayerRetention().full
    assert not LayerRetention(chunk=1).full


def test_the_interface_gives_the_same_class() -> None:
    assert interface.LayerRetention is LayerRetention
