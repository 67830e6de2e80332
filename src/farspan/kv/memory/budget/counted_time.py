"""Time as far as a process got to see it: what it waits for others by, on a machine where they may all get little."""

from __future__ import annotations

import time
from collections.abc import Callable


class CountedTime:
    """Counts seconds by its holder's own looks, of which none counts more than `most_s`.

    A process that gets no time from a busy machine waits the longer for others, which get none either; and one that was
    stopped itself has not waited meanwhile.

    Args:
        most_s: The most that counts between two looks.
        clock: Seconds that only grow.
    """

    def __init__(self, most_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_s = most_s
        self._clock = clock
        self._last: float | None = None

    def passed(self) -> float:
        """Return what counts since the last call; nothing at the first."""
        now = self._clock()
        passed = 0.0 if self._last is None else min(now - self._last, self._most_s)
        self._last = now
        return passed
