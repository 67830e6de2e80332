"""Which neighbours a request that needs room may wait for: those that still look at the budget.

What a member says of itself is as old as its last look: between its steps, or every 0.1 s when it has none. A request
of its may have ended since, and what it was asked to give back may be on its way. So nobody is refused for what a
neighbour said before the request came: it is waited for until the neighbour has looked anew. How long that takes is the
neighbour's affair, as long as it looks at all; one that does not for many of the waiting member's own looks is stopped
or hangs, and what it holds is counted on no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from farspan.kv.memory.budget.counted_time import CountedTime

SILENT_S = 30.0  # without a look of it for so long, as its neighbours count, a member is not waited for
_MOST_COUNTED_S = 1.0
# Looks that a neighbour must have begun and ended for its figures to be current: the first may have begun before.
_WHOLE_LOOKS = 2


class Neighbour(NamedTuple):
    """Which member it is: a slot is used again by others."""

    number: int
    pid: int
    joined: int


class RoomWait:
    """A request's wait for room, since it was first refused: what each neighbour has looked at since."""

    def __init__(self) -> None:
        self._begun: dict[Neighbour, int] = {}

    def looks(self, neighbour: Neighbour, looks: int) -> int:
        """Return how often a neighbour has looked since the wait began, given how often it has in all."""
        return looks - self._begun.setdefault(neighbour, looks)

    def is_current(self, neighbour: Neighbour, looks: int) -> bool:
        """Whether a neighbour has looked, and done what it had to do, since the wait began."""
        return self.looks(neighbour, looks) >= _WHOLE_LOOKS


class _Silence(NamedTuple):
    looks: int
    seconds: float


class SilenceCount:
    """For how long each neighbour has not looked, counted by a member's own looks.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._time = CountedTime(_MOST_COUNTED_S, clock)
        self._silences: dict[Neighbour, _Silence] = {}

    def count(self, neighbours: Iterable[tuple[Neighbour, int]]) -> None:
        """Take note of how often each neighbour has looked in all."""
        passed = self._time.passed()
        before, self._silences = self._silences, {}
        for neighbour, looks in neighbours:
            last = before.get(neighbour)
            same = last is not None and last.looks == looks
            self._silences[neighbour] = _Silence(looks, last.seconds + passed if last and same else 0.0)

    def seconds(self, neighbour: Neighbour) -> float:
        """Return for how long a neighbour has not looked."""
        return self._silences[neighbour].seconds if neighbour in self._silences else 0.0

    def is_silent(self, neighbour: Neighbour) -> bool:
        """Whether a neighbour has not looked for so long that it is not waited for."""
        return self.seconds(neighbour) >= SILENT_S
