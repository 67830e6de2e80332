"""How much of a budget each of its members may hold: the arithmetic, and nothing else.

Everybody gets what they demand when that fits. When it does not, the smallest demands are met first and the rest is
shared equally (max-min fairness), nobody below their floor. What a member holds beyond its share is asked back only
while somebody lacks it, and then first from those who have it idle.

A wish is mostly one request's, and a part of it is of no use. So of wishes that are all larger than their shares the
oldest that can be met is met, whole, and the others wait: otherwise they would wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

_NEWEST = 2**64


@dataclass(frozen=True, slots=True)
class MemberClaim:
    """What a member holds and wants, in bytes.

    Attributes:
        held: Physical memory it has.
        floor: What it may always hold: nobody else is given it.
        promised: What it may still take for requests that it has admitted, beyond `held`.
        wished: What it would take now if there were room, beyond all of `held`; 0 when it lacks nothing.
        idle: Of `held`, what no request needs: it can be given back.
        limit: The most it may hold; None for no limit of its own.
        wished_since: When it began to wish, on a clock of all members; 0 where that is not known.
    """

    held: int = 0
    floor: int = 0
    promised: int = 0
    wished: int = 0
    idle: int = 0
    limit: int | None = None
    wished_since: int = 0

    @property
    def spoken_for(self) -> int:
        """What nobody else may take."""
        return max(self.held + self.promised, self.floor)

    @property
    def settled(self) -> int:
        """What it needs for the requests that it has admitted: in use and promised, its floor at least."""
        return self.within_limit(max(self.floor, self.held - self.idle + self.promised))

    @property
    def demand(self) -> int:
        """What it needs: what its requests use, and what they and those that wait still lack."""
        if not self.wished:
            return self.settled
        # What is idle would be used too.
        return max(self.settled, self.within_limit(self.held + self.wished))

    def within_limit(self, size: int) -> int:
        """Return `size`, or the member's own limit if that is less."""
        return size if self.limit is None else min(size, self.limit)


class Allowance(NamedTuple):
    """What a member may hold, in bytes.

    Attributes:
        now: At this moment: below `held` when it must give idle memory back.
        soon: Once the others have given back what they hold and do not need.
    """

    now: int
    soon: int


def allowance(total: int, claims: Sequence[MemberClaim], member: int) -> Allowance:
    """Return what a member may hold.

    Args:
        total: Bytes there are for all.
        claims: Everybody's.
        member: Whose allowance, an index of `claims`.
    """
    mine = claims[member]
    floors = [claim.floor for claim in claims]
    demands = _orderly(total, claims, [claim.demand for claim in claims])
    greedy = demands.copy()
    greedy[member] = mine.within_limit(max(total, demands[member]))
    soon = fair_shares(total, greedy, floors)[member]
    others = sum(claim.spoken_for for index, claim in enumerate(claims) if index != member)
    now = max(0, min(max(soon, mine.within_limit(mine.held + mine.promised)), total - others))
    giving = _gives(total, claims, fair_shares(total, demands, floors), member)
    if giving:
        # What its requests use, and were promised when they were admitted, stays theirs.
        needed = mine.within_limit(mine.held - mine.idle + mine.promised)
        now = max(mine.held - giving, min(needed, total - others))
    elif now < mine.held:
        now = mine.within_limit(mine.held)  # nobody lacks it
    return Allowance(now, max(soon, now))


def may_take(total: int, claims: Sequence[MemberClaim], member: int, size: int) -> bool:
    """Return whether a member may hold `size` bytes, promised ones included: there is room, and it is a fair share."""
    mine = claims[member]
    if mine.within_limit(size) < size:
        return False
    others = sum(claim.spoken_for for index, claim in enumerate(claims) if index != member)
    if size + others > total:
        return False
    if size <= mine.held + mine.promised:
        return True
    demands = [claim.demand for claim in claims]
    demands[member] = max(size, mine.floor)
    demands = _orderly(total, claims, demands)
    # One byte less a member: shares are rounded down.
    return size <= fair_shares(total, demands, [claim.floor for claim in claims])[member] + len(claims)


class Figures(Enum):
    """What another member's figures are worth to one that waits for room."""

    CURRENT = "current"  # it has looked at the budget since, and given back what it was asked for
    OLD = "old"  # what it held for requests may be idle by now, and what is idle about to be given back
    SILENT = "silent"  # it has not looked for so long that nothing it holds is counted on


def attainable(total: int, claims: Sequence[MemberClaim], member: int, figures: Sequence[Figures]) -> int:
    """Return the most that a member could come to hold, as far as is settled: never less than it will be given.

    Wishes are not settled, nor is what is idle: both are waited for.

    Args:
        total: Bytes there are for all.
        claims: Everybody's.
        member: Whose.
        figures: What everybody's claim is worth; the member's own is always current.
    """
    pairs = list(zip(claims, figures, strict=True))
    kept = sum(
        claim.spoken_for
        for index, (claim, each) in enumerate(pairs)
        if each is Figures.SILENT and index != member
    )
    total = max(0, total - kept)
    demands, floors = [], []
    for claim, each in pairs:
        silent = each is Figures.SILENT
        demands.append(0 if silent else claim.settled if each is Figures.CURRENT else claim.floor)
        floors.append(0 if silent else claim.floor)
    demands[member] = claims[member].within_limit(total)
    floors[member] = claims[member].floor
    return fair_shares(total, demands, floors)[member]


def fair_shares(total: int, demands: Sequence[int], floors: Sequence[int]) -> list[int]:
    """Return the max-min fair shares of `total` for `demands`, nobody below the floor it demands."""
    if sum(demands) <= total:
        return list(demands)
    least = [min(floor, demand) for floor, demand in zip(floors, demands, strict=True)]
    if (floored := sum(least)) >= total:
        return [total * each // floored for each in least] if floored else [0] * len(demands)
    low, high = 0, max(demands)  # the level up to which everybody gets what they demand
    while high - low > 1:
        level = (low + high) // 2
        if sum(_share(level, *pair) for pair in zip(least, demands, strict=True)) <= total:
            low = level
        else:
            high = level
    return [_share(low, *pair) for pair in zip(least, demands, strict=True)]


def _orderly(total: int, claims: Sequence[MemberClaim], demands: list[int]) -> list[int]:
    """Return the demands without the wishes that wait for an older one, where several are larger than their shares."""
    floors = [claim.floor for claim in claims]
    shares = fair_shares(total, demands, floors)
    large = [
        index
        for index, (claim, demand) in enumerate(zip(claims, demands, strict=True))
        if demand > max(shares[index], claim.settled)
    ]
    if len(large) < 2:
        return demands
    # Who has not said that it wishes is the newest.
    ages = {index: claims[index].wished_since if claims[index].wished else _NEWEST for index in large}
    if not all(ages.values()):
        return demands
    for first in sorted(large, key=lambda index: (ages[index], index)):
        others = [
            claims[index].settled if index in large and index != first else demand
            for index, demand in enumerate(demands)
        ]
        if fair_shares(total, others, floors)[first] >= demands[first]:
            return others
    return demands


def _share(level: int, least: int, demand: int) -> int:
    return max(least, min(level, demand))


def _gives(total: int, claims: Sequence[MemberClaim], shares: Sequence[int], member: int) -> int:
    """Return the bytes that a member must give back, of what is lacking in all."""
    mine = claims[member]
    own = mine.held - mine.within_limit(mine.held)
    surplus = [max(0, claim.held - share) for claim, share in zip(claims, shares, strict=True)]
    lacking = sum(max(0, share - claim.held) for claim, share in zip(claims, shares, strict=True))
    lacking -= total - sum(claim.held for claim in claims)
    if lacking <= 0 or not surplus[member]:
        return own
    idle = [min(claim.idle, extra) for claim, extra in zip(claims, surplus, strict=True)]
    if lacking >= sum(idle):  # all that is idle, and what is in use as it becomes idle
        return max(own, surplus[member])
    return max(own, -(-lacking * idle[member] // sum(idle)))
