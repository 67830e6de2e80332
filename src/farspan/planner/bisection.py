"""The one search by halves: how far something holds."""

from __future__ import annotations

from collections.abc import Callable


def last_holding(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The largest whole number from `low` to `high` for which `holds`; `low - 1` when there is none.

    Args:
        low: The first number asked about.
        high: The last; below `low` there is nothing to ask.
        holds: True up to some number and False above it. Asked once for a number, `low` first, and about
            log2(high - low) times in all. Where it is not of that kind, the answer is some number for which it
            holds, or `low - 1` when it does not hold for `low`.
    """
    if high < low or not holds(low):
        return low - 1
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
