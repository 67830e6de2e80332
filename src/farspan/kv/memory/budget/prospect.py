"""What a member may come to hold, and what keeps it from more: whether a request that lacks room may wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from farspan.kv.memory.budget.budget_file import MemberSlot
from farspan.kv.memory.budget.fair_share import Figures, MemberClaim, attainable
from farspan.kv.memory.budget.neighbours import Neighbour, RoomWait, SilenceCount
from farspan.sizes import format_bytes


class Prospect(NamedTuple):
    """What a member may come to hold, as far as is settled.

    Attributes:
        size: Bytes; never less than it will be given if it waits.
        limits: What keeps it from more whoever else is there, in words.
        holders: Who keeps it from more, and with what, in words.
        looks: How often each neighbour that can be waited for has looked, at least, since the wait began; None when
            there is nobody to wait for.
    """

    size: int
    limits: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    looks: int | None = None


def prospect(
    limit: int | None,
    total: int,
    own: MemberClaim,
    others: Mapping[Neighbour, tuple[MemberSlot, MemberClaim]],
    silences: SilenceCount,
    wait: RoomWait | None,
) -> Prospect:
    """Return what a member may come to hold.

    Args:
        limit: What all may hold; None when only the device's memory is the limit.
        total: Bytes there are for all.
        own: The member's claim.
        others: What the others say, and what they claim.
        silences: Who of them does not look any more.
        wait: Of the request that asks; None for one that has not begun to wait, to which only limits and floors are
            settled.
    """
    limits = [] if limit is None else [f"the limit of all is {format_bytes(limit)}"]
    if own.limit is not None:
        limits.append(f"the limit of this server is {format_bytes(own.limit)}")
    claims, figures = [own], [Figures.CURRENT]
    holders: list[str] = []
    looks: list[int] = []
    for neighbour, (slot, claim) in others.items():
        known = _figures(neighbour, slot.looks, silences, wait)
        claims.append(claim)
        figures.append(known)
        if wait is not None and known is not Figures.SILENT:
            looks.append(wait.looks(neighbour, slot.looks))
        who = f"{slot.name} (process {slot.pid})"
        if known is Figures.SILENT and claim.spoken_for:
            holders.append(
                f"{who} holds {format_bytes(claim.spoken_for)} and has not looked at the budget for "
                f"{silences.seconds(neighbour):.0f} s: it is stopped, or hangs"
            )
        elif known is Figures.CURRENT and claim.settled > claim.floor:
            holders.append(f"{who} needs {format_bytes(claim.settled)} for its requests")
        elif claim.floor:
            holders.append(f"{who} has a floor of {format_bytes(claim.floor)}")
    size = attainable(total, claims, 0, figures)
    return Prospect(size, tuple(limits), tuple(holders), min(looks, default=None))


def _figures(neighbour: Neighbour, looks: int, silences: SilenceCount, wait: RoomWait | None) -> Figures:
    if wait is None:
        return Figures.OLD
    current = wait.is_current(neighbour, looks)  # always asked: the wait begins with the first time
    if silences.is_silent(neighbour):
        return Figures.SILENT
    return Figures.CURRENT if current else Figures.OLD
