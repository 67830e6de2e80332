"""What may go from the tree, the least recently used first: a heap that is corrected when something comes up."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

# Nearly equally old: at least 7/8 the age of the oldest. Of so many candidates the one that helps most goes.
_SLACK = 8
_CANDIDATES = 16
_SMALL = 64


class Aged(Protocol):
    """What can be queued."""

    last: int
    queued: bool


Item = TypeVar("Item", bound=Aged)


class AgeQueue(Generic[Item]):
    """A heap that holds everything that may go; more than once only what was offered again.

    Args:
        may_go: Whether something may go now; what may not is dropped when it comes up, and offered again later.
    """

    def __init__(self, may_go: Callable[[Item], bool]) -> None:
        self._may_go = may_go
        self._heap: list[tuple[int, int, Item]] = []
        self._order = 0
        self._pruned = _SMALL

    def offer(self, item: Item) -> None:
        """Queue something if it may go and is not queued."""
        if item.queued or not self._may_go(item):
            return
        item.queued = True
        self._push(item)
        if len(self._heap) > 2 * self._pruned:
            self._prune()

    def offer_again(self, item: Item) -> None:
        """Queue something that has become older than it was."""
        item.queued = False
        self.offer(item)

    def pop(self, now: int, scores: Callable[[list[Item]], list[float]] | None = None) -> Item | None:
        """Take what goes first: the oldest, or of those nearly as old the one with the highest score."""
        first = self._oldest()
        if first is None or scores is None:
            return first
        found = [first]
        slack = (now - first.last) // _SLACK
        while len(found) < _CANDIDATES:
            other = self._oldest()
            if other is None:
                break
            if other.last > first.last + slack:
                self.offer(other)
                break
            found.append(other)
        values = scores(found) if len(found) > 1 else [0.0]
        best = max(range(len(found)), key=values.__getitem__)
        chosen = found.pop(best)
        for other in found:
            self.offer(other)
        return chosen

    def oldest(self) -> Item | None:
        """Return what was used least recently of what may go, and leave it there."""
        item = self._oldest()
        if item is not None:
            self.offer(item)
        return item

    def __len__(self) -> int:
        return len(self._heap)

    def _oldest(self) -> Item | None:
        while self._heap:
            last, _, item = heappop(self._heap)
            item.queued = False
            if not self._may_go(item):
                continue
            if last != item.last:
                item.queued = True
                self._push(item)
                continue
            return item
        return None

    def _push(self, item: Item) -> None:
        self._order += 1
        heappush(self._heap, (item.last, self._order, item))

    def _prune(self) -> None:
        """Drop what may not go any more: a queue nobody takes from must not keep it."""
        kept = []
        for entry in self._heap:
            if self._may_go(entry[2]):
                kept.append(entry)
            else:
                entry[2].queued = False
        heapify(kept)
        self._heap = kept
        self._pruned = max(_SMALL, len(kept))
