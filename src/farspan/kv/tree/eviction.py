"""Which pages of a prefix tree to let go of first, in O(log n) a node, amortised.

Each kind of layer at each location has a heap of nodes that may go. A heap holds a node at most once and is corrected
lazily: a node used since it was queued goes back with its new age when it comes up; one that was locked, grew a
child or was removed is dropped and queued again when that ends. So matches and locks touch no heap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from farspan.kv.tree.cache_events import Location
from farspan.kv.tree.tree_node import Slot, TreeNode

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Candidates are nearly equally old when the youngest is at least 7/8 the age of the oldest.
_SLACK = 8
_WINDOW = 32
# Pages of a candidate that `prefer` is asked about.
_SAMPLE = 4096

Preference = Callable[["NDArray[np.int32]"], "NDArray[Any]"]


@dataclass(frozen=True, slots=True, eq=False)
class Victim:
    """Pages that may go: of a primary kind those of [start, node.end), of a secondary one all the node has.

    Attributes:
        node: Where they are.
        kind: The layer kind.
        location: Where they lie now.
        start: The first page that goes, counted from the start of the sequence.
        end: The node's end when the victim was chosen.
        pages: int32 page ids in order of position.
    """

    node: TreeNode = field(repr=False)
    kind: int
    location: Location
    start: int
    end: int
    pages: NDArray[np.int32]


class _Candidate(NamedTuple):
    last: int
    order: int
    node: TreeNode


class EvictionQueue:
    """The candidates of one tree, the least recently used first."""

    def __init__(self, kinds: int) -> None:
        self._heaps: dict[Slot, list[_Candidate]] = {
            (kind, location): [] for kind in range(kinds) for location in Location
        }
        self._order = 0

    def offer(self, node: TreeNode) -> None:
        """Queue a node wherever it may be chosen now and is not queued yet."""
        for slot in node.slots():
            bit = 1 << (2 * slot[0] + slot[1])
            if not node.queued & bit and evictable(node, slot):
                node.queued |= bit
                self._push(slot, node)

    def choose(self, slot: Slot, pages: int, prefer: Preference | None, now: int) -> list[Victim]:
        """Return victims that hold at least `pages` pages together, or all there are; nothing is changed."""
        selection = _Selection(self, slot, now)
        victims: list[Victim] = []
        window: list[_Candidate] = []
        scores: dict[int, float] = {}
        while pages > 0:
            if len(window) <= (_WINDOW // 2 if prefer else 0):
                # Filled by halves, so that `prefer` is called once for many.
                selection.fill(window, _WINDOW if prefer else 1)
                if prefer and len(window) > 1:
                    scores |= _scores([c for c in window if c.order not in scores], slot, pages, prefer)
            if not window:
                break
            best = 0
            if prefer and len(window) > 1:
                best = max(range(len(window)), key=lambda index: scores[window[index].order])
            chosen = window.pop(best)
            victim = _victim(chosen.node, slot, pages)
            victims.append(victim)
            pages -= len(victim.pages)
            if slot[0] == 0 and victim.start == chosen.node.start:
                selection.gone(chosen)
        selection.put_back()
        return victims

    def pop(self, slot: Slot) -> _Candidate | None:
        """Take the first node that may go off the heap; None when there is none."""
        heap = self._heaps[slot]
        while heap:
            node = heap[0].node
            if not evictable(node, slot):
                heappop(heap)
                node.queued &= ~(1 << (2 * slot[0] + slot[1]))
            elif heap[0].last != node.last:
                heappop(heap)
                self._push(slot, node)
            else:
                return heappop(heap)
        return None

    def put_back(self, slot: Slot, candidates: list[_Candidate]) -> None:
        """Undo `pop`."""
        for candidate in candidates:
            heappush(self._heaps[slot], candidate)

    def next_order(self) -> int:
        """Return a number that no candidate has yet, to break ties by arrival."""
        self._order += 1
        return self._order

    def check_integrity(self, nodes: list[TreeNode]) -> None:
        """Raise AssertionError when a node that may go is not queued, or one is queued twice."""
        queued: dict[Slot, set[int]] = {}
        for slot, heap in self._heaps.items():
            queued[slot] = {id(candidate.node) for candidate in heap}
            assert len(queued[slot]) == len(heap), "a node is queued twice"
        for node in nodes:
            for slot in node.slots():
                if evictable(node, slot):
                    assert id(node) in queued[slot], "a node that may go is not queued"

    def _push(self, slot: Slot, node: TreeNode) -> None:
        heappush(self._heaps[slot], _Candidate(node.last, self.next_order(), node))


class _Selection:
    """One choice of victims: as if those chosen were gone, so that their parents come up in turn."""

    def __init__(self, queue: EvictionQueue, slot: Slot, now: int) -> None:
        self._queue = queue
        self._slot = slot
        self._now = now
        self._popped: list[_Candidate] = []
        self._parents: list[_Candidate] = []
        self._left: dict[int, int] = {}
        self._ahead: _Candidate | None = None

    def fill(self, window: list[_Candidate], size: int) -> None:
        """Add the next candidates to the window, while they are nearly as old as its first."""
        while len(window) < size:
            candidate = self._peek()
            if candidate is None or (window and not self._near(window[0], candidate)):
                break
            self._take()
            window.append(candidate)

    def gone(self, chosen: _Candidate) -> None:
        """Note that a node is chosen whole; its parent may be next, as recently used as its children were."""
        parent = chosen.node.parent
        assert parent is not None
        device = self._slot[1] is Location.DEVICE
        before = self._left.get(id(parent), parent.device_children if device else len(parent.children))
        self._left[id(parent)] = before - 1
        parent_may_go = parent.parent is not None and not parent.locks and parent.location is self._slot[1]
        if before == 1 and parent_may_go:
            order = self._queue.next_order()
            heappush(self._parents, _Candidate(max(parent.last, chosen.last), order, parent))

    def put_back(self) -> None:
        """Leave the queue as it was."""
        self._queue.put_back(self._slot, self._popped)

    def _peek(self) -> _Candidate | None:
        if self._ahead is None:
            self._ahead = self._queue.pop(self._slot)
            if self._ahead is not None:
                self._popped.append(self._ahead)
        if self._parents and (self._ahead is None or self._parents[0] < self._ahead):
            return self._parents[0]
        return self._ahead

    def _take(self) -> None:
        if self._parents and (self._ahead is None or self._parents[0] < self._ahead):
            heappop(self._parents)
        else:
            self._ahead = None

    def _near(self, first: _Candidate, other: _Candidate) -> bool:
        slack = (self._now - first.last) // _SLACK
        return other.last <= first.last + slack


def evictable(node: TreeNode, slot: Slot) -> bool:
    """Whether a node may lose its pages of a kind at a location now: unlocked, a leaf if the kind is the primary."""
    if node.locks or not node.alive or node.parent is None:
        return False
    if slot[0]:
        return slot in node.secondary
    if node.location is not slot[1]:
        return False
    return not (node.device_children if slot[1] is Location.DEVICE else node.children)


def _victim(node: TreeNode, slot: Slot, pages: int) -> Victim:
    if slot[0]:
        taken = [piece.pages for piece in node.secondary[slot]]
        return Victim(node, *slot, node.start, node.end, np.concatenate(taken))
    start = max(node.start, node.end - pages)
    return Victim(node, *slot, start, node.end, node.pages.gather(start, node.end))


def _scores(candidates: list[_Candidate], slot: Slot, pages: int, prefer: Preference) -> dict[int, float]:
    """Return how much each candidate's pages would help, on average, by the candidates' order."""
    samples = [_sample(candidate.node, slot, pages) for candidate in candidates]
    if not samples:
        return {}
    starts = np.cumsum([0, *map(len, samples[:-1])])
    sums = np.add.reduceat(np.asarray(prefer(np.concatenate(samples)), dtype=np.float64), starts)
    return {
        candidate.order: float(total) / len(sample)
        for candidate, sample, total in zip(candidates, samples, sums, strict=True)
    }


def _sample(node: TreeNode, slot: Slot, pages: int) -> NDArray[np.int32]:
    """Return the pages that would go first, a bounded number of them."""
    if slot[0]:
        return np.concatenate([piece.pages for piece in node.secondary[slot]])[-_SAMPLE:]
    return node.pages.gather(max(node.start, node.end - min(pages, _SAMPLE)), node.end)
