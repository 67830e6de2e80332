"""Fair shares: nobody below their floor, nothing beyond the total, memory to who lacks it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.kv.memory.budget.fair_share import (
    Allowance,
    Figures,
    MemberClaim,
    allowance,
    attainable,
    fair_shares,
    may_take,
)

GIB = 2**30


@pytest.mark.parametrize(
    ("total", "demands", "floors", "shares"),
    [
        (100, [30, 40], [0, 0], [30, 40]),  # it fits
        (100, [80, 80], [0, 0], [50, 50]),
        (100, [10, 80, 80], [0, 0, 0], [10, 45, 45]),  # who needs little gets it
        (100, [80, 80], [70, 0], [70, 30]),
        (100, [10, 100], [70, 0], [10, 90]),  # a floor that is not demanded is nobody's loss
        (50, [80, 80], [60, 40], [30, 20]),  # floors that no longer fit are cut evenly
        (0, [80, 80], [0, 0], [0, 0]),
    ],
)
def test_shares(total: int, demands: list[int], floors: list[int], shares: list[int]) -> None:
    assert fair_shares(total, demands, floors) == shares


def test_memory_moves_from_who_has_it_idle_to_who_lacks_it() -> None:
    idle = MemberClaim(held=90 * GIB, idle=85 * GIB)
    loaded = MemberClaim(held=10 * GIB, wished=60 * GIB)
    assert allowance(100 * GIB, [idle, loaded], 0) == Allowance(30 * GIB, 50 * GIB)
    assert allowance(100 * GIB, [idle, loaded], 1) == Allowance(10 * GIB, 95 * GIB)


def test_who_has_memory_idle_keeps_it_while_nobody_lacks_it() -> None:
    idle = MemberClaim(held=90 * GIB, idle=85 * GIB)
    assert allowance(100 * GIB, [idle, MemberClaim(held=10 * GIB)], 0).now == 90 * GIB


def test_two_that_want_everything_get_half_each() -> None:
    greedy = MemberClaim(held=80 * GIB, wished=50 * GIB)
    newcomer = MemberClaim(held=20 * GIB, wished=70 * GIB)
    claims = [greedy, newcomer]
    # What is in use is not taken away, but does not grow, and goes over as it becomes idle.
    assert allowance(100 * GIB, claims, 0).now == 80 * GIB
    assert allowance(100 * GIB, [replace(greedy, idle=10 * GIB), newcomer], 0).now == 70 * GIB
    assert not may_take(100 * GIB, claims, 0, 81 * GIB)
    assert allowance(100 * GIB, claims, 1).soon == 50 * GIB
    after = [MemberClaim(held=40 * GIB, wished=50 * GIB), newcomer]
    assert may_take(100 * GIB, after, 1, 50 * GIB)
    assert not may_take(100 * GIB, after, 1, 51 * GIB)


def test_what_was_promised_to_admitted_requests_is_theirs_though_others_lack_memory() -> None:
    admitted = MemberClaim(held=70 * GIB, promised=20 * GIB)
    waiting = MemberClaim(held=5 * GIB, wished=40 * GIB)
    assert allowance(100 * GIB, [admitted, waiting], 0).now == 90 * GIB
    assert may_take(100 * GIB, [admitted, waiting], 0, 90 * GIB)
    assert allowance(100 * GIB, [admitted, waiting], 1).now == 10 * GIB


def test_a_limit_that_is_lowered_is_followed_by_all_who_have_more_than_their_share() -> None:
    claims = [MemberClaim(held=50, idle=50), MemberClaim(held=30, idle=30), MemberClaim(held=10)]
    given_back = [claim.held - allowance(50, claims, index).now for index, claim in enumerate(claims)]
    assert given_back[2] == 0
    assert 40 <= sum(given_back) <= 42


def test_a_limit_of_ones_own_is_followed_without_anybody_lacking() -> None:
    assert allowance(100, [MemberClaim(held=50, idle=50, limit=20), MemberClaim()], 0) == Allowance(20, 20)


def test_a_floor_is_kept_free_for_its_member() -> None:
    claims = [MemberClaim(held=0, floor=40), MemberClaim(held=50)]
    assert not may_take(100, claims, 1, 61)
    assert may_take(100, claims, 1, 60)
    assert may_take(100, claims, 0, 40)


def test_of_two_wishes_that_do_not_fit_beside_each_other_the_older_is_met_first() -> None:
    older = MemberClaim(held=50 * GIB, idle=50 * GIB, wished=20 * GIB, wished_since=1)
    newer = MemberClaim(held=45 * GIB, idle=45 * GIB, wished=35 * GIB, wished_since=2)
    claims = [older, newer]
    assert may_take(100 * GIB, [older, replace(newer, held=30 * GIB, idle=30 * GIB)], 0, 70 * GIB)
    assert allowance(100 * GIB, claims, 0).now == 55 * GIB, "it keeps what it has, and takes what is free"
    assert allowance(100 * GIB, claims, 1).now == 30 * GIB, "it gives what the older lacks"
    assert not may_take(100 * GIB, claims, 1, 80 * GIB)
    # One that cannot be met stands in nobody's way, and a small one never has to wait.
    assert may_take(100 * GIB, [replace(older, wished=60 * GIB), MemberClaim()], 1, 50 * GIB)
    stuck = MemberClaim(held=60 * GIB, wished=60 * GIB, wished_since=1)
    assert may_take(100 * GIB, [stuck, replace(newer, held=0, idle=0)], 1, 40 * GIB)
    assert may_take(100 * GIB, [replace(older, held=0, idle=0, wished=90 * GIB), MemberClaim()], 1, 10 * GIB)


@pytest.mark.parametrize(
    ("figures", "size"),
    [
        (Figures.CURRENT, 50),  # in use, and the half is a fair share
        (Figures.OLD, 90),  # what was in use may be idle by now; a floor stays
        (Figures.SILENT, 35),  # nothing of it comes back
    ],
)
def test_what_may_come_to_be_depends_on_what_a_neighbours_figures_are_worth(
    figures: Figures, size: int
) -> None:
    neighbour = MemberClaim(held=65, floor=10, wished=20, wished_since=1)
    claims = [MemberClaim(held=5), neighbour]
    assert attainable(100, claims, 0, [Figures.CURRENT, figures]) == size
    assert attainable(100, [replace(claims[0], limit=30), neighbour], 0, [Figures.CURRENT, figures]) == 30


sizes = st.integers(0, 10**12)
members = st.builds(
    lambda held, share, floor, promised, wished, limit: MemberClaim(
        held, floor, promised, wished, int(held * share), limit
    ),
    sizes,
    st.floats(0, 1),
    sizes,
    sizes,
    sizes,
    st.none() | sizes,
)


@given(sizes, st.lists(st.tuples(sizes, sizes), min_size=1, max_size=8))
def test_shares_never_exceed_the_total_nor_a_demand(total: int, pairs: list[tuple[int, int]]) -> None:
    demands, floors = [demand for demand, _ in pairs], [floor for _, floor in pairs]
    shares = fair_shares(total, demands, floors)
    assert sum(shares) <= total
    assert all(0 <= share <= demand for share, demand in zip(shares, demands, strict=True))
    if sum(demands) >= total and sum(min(pair) for pair in pairs) < total:
        assert sum(shares) > total - len(pairs)  # nothing is left lying but what is rounded away
    if sum(min(pair) for pair in pairs) <= total:
        assert all(share >= min(pair) for share, pair in zip(shares, pairs, strict=True))


@given(sizes, st.lists(members, min_size=1, max_size=6), st.data())
def test_what_may_be_taken_is_there(total: int, claims: list[MemberClaim], data: st.DataObject) -> None:
    member = data.draw(st.integers(0, len(claims) - 1))
    size = data.draw(sizes)
    if may_take(total, claims, member, size):
        others = sum(claim.spoken_for for claim in claims) - claims[member].spoken_for
        assert size + others <= total
        assert claims[member].limit is None or size <= claims[member].limit


@given(sizes, st.lists(members, min_size=1, max_size=6))
def test_who_gives_back_as_told_makes_room_for_all(total: int, claims: list[MemberClaim]) -> None:
    """When everything above the allowances is given back, what is lacking is there, as far as it was idle."""
    told = [allowance(total, claims, index) for index in range(len(claims))]
    shares = fair_shares(total, [claim.demand for claim in claims], [claim.floor for claim in claims])
    surplus = sum(max(0, claim.held - share) for claim, share in zip(claims, shares, strict=True))
    lacking = sum(max(0, share - claim.held) for claim, share in zip(claims, shares, strict=True))
    lacking -= total - sum(claim.held for claim in claims)
    given_back = sum(max(0, claim.held - each.now) for claim, each in zip(claims, told, strict=True))
    assert all(0 <= each.now <= each.soon for each in told)
    if lacking > 0:
        idle = [
            min(claim.idle - claim.promised, claim.held - share)
            for claim, share in zip(claims, shares, strict=True)
        ]
        assert given_back >= min(lacking, surplus, sum(max(0, each) for each in idle))


@given(sizes, st.lists(members, min_size=1, max_size=6), st.data())
def test_nobody_is_refused_what_may_be_taken(
    total: int, claims: list[MemberClaim], data: st.DataObject
) -> None:
    """Whoever waits is refused only what it could not be given, whatever it is worth that the others say."""
    member, size = data.draw(st.integers(0, len(claims) - 1)), data.draw(sizes)
    figures = [data.draw(st.sampled_from(Figures)) for _ in claims]
    if may_take(total, claims, member, size):
        assert size <= attainable(total, claims, member, figures) + len(claims)


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=6), st.integers(1, 10**12), st.randoms())
def test_one_of_several_wishes_is_always_met(
    pairs: list[tuple[int, int]], total: int, chance: random.Random
) -> None:
    """Nobody uses anything: whatever is wished for, somebody's is given, the others give back what it takes."""
    order = chance.sample(range(1, 100), len(pairs))
    held = [min(each, total // len(pairs)) for each, _ in pairs]
    claims = [
        MemberClaim(held=has, idle=has, wished=min(wished, total - has), wished_since=since)
        for has, (_, wished), since in zip(held, pairs, order, strict=True)
    ]
    wishers = [index for index, claim in enumerate(claims) if claim.wished]
    for _ in range(100):
        kept = [min(claim.held, allowance(total, claims, index).now) for index, claim in enumerate(claims)]
        claims = [
            replace(claim, held=has, idle=has, wished=claim.wished and claim.held + claim.wished - has)
            for claim, has in zip(claims, kept, strict=True)
        ]
    met = [i for i in wishers if may_take(total, claims, i, claims[i].held + claims[i].wished)]
    assert met or not wishers
