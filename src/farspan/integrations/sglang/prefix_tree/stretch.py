"""The nodes of the tree: a stretch of tokens, the KV slots that hold them, and what of it window layers still have."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.errors import KVError
from farspan.integrations.sglang.host_copy import HostCopy
from farspan.kv.tree.growing_arrays import BLOCK_VALUES, GrowingArray

Interval = tuple[int, int]


class SlotPieces:
    """KV slots of consecutive tokens, as tensors on the device side by side; appending one copies nothing else.

    Args:
        start: Position of the first token.
        mirrored: Whether they are on the CPU too, for `numbers`.

    Attributes:
        mirrored: See above.
    """

    __slots__ = ("_copies", "_pieces", "_starts", "end", "mirrored")

    def __init__(self, start: int, mirrored: bool) -> None:
        self.end = start
        self.mirrored = mirrored
        self._starts: list[int] = []
        self._pieces: list[torch.Tensor] = []
        self._copies: list[HostCopy] = []  # of the pieces, when mirrored

    def append(self, slots: torch.Tensor) -> None:
        """Keep `slots`, which must be the caller's own to give away."""
        self._starts.append(self.end)
        self._pieces.append(slots)
        self.end += len(slots)
        if self.mirrored:
            if self._copies:
                self._copies[-1].settle()
            self._copies.append(HostCopy.of(slots))

    def views(self, start: int, stop: int) -> list[torch.Tensor]:
        """Return the slots of positions [start, stop) in order."""
        return [self._pieces[index][low:high] for index, low, high in self._parts(start, stop)]

    def numbers(self, start: int, stop: int) -> NDArray[np.integer[Any]]:
        """Return the slots of positions [start, stop) on the CPU; they must be mirrored."""
        return np.concatenate(
            [self._copies[index].numbers()[low:high] for index, low, high in self._parts(start, stop)]
        )

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield the number of each piece that has some of positions [start, stop), and which part of it that is."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._pieces) and self._starts[index] < stop:
            first, size = self._starts[index], len(self._pieces[index])
            low, high = max(0, start - first), min(stop - first, size)
            if low < high:
                yield index, low, high
            index += 1

    def cut(self, at: int) -> SlotPieces:
        """Return the part before position `at`; this one keeps the rest. Neither keeps memory of the other alive."""
        index = bisect_right(self._starts, at) - 1
        head = SlotPieces(self._starts[0], self.mirrored)
        head._starts, head._pieces, head._copies = (
            self._starts[:index],
            self._pieces[:index],
            self._copies[:index],
        )
        head.end = at
        first, piece = self._starts[index], self._pieces[index]
        copies = self._copies[index : index + 1]
        if at > first:
            head._starts.append(first)
            head._pieces.append(piece[: at - first].clone())
            head._copies += [each.part(0, at - first) for each in copies]
            copies = [each.part(at - first, len(piece)) for each in copies]
            piece = piece[at - first :].clone()
        self._starts = [at, *self._starts[index + 1 :]]
        self._pieces = [piece, *self._pieces[index + 1 :]]
        self._copies = [*copies, *self._copies[index + 1 :]]
        return head


class Span:
    """Consecutive tokens of a stretch whose KV of window layers is there; `stretch` is None once it is not."""

    __slots__ = ("last", "queued", "start", "stop", "stretch")

    def __init__(self, stretch: Stretch, start: int, stop: int, last: int) -> None:
        self.stretch: Stretch | None = stretch
        self.start = start
        self.stop = stop
        self.last = last
        self.queued = False


class Stretch:
    """Tokens [start, end) of every sequence that goes through it, counted from the root; a root has no parent.

    Args:
        parent: What it hangs from.
        key: What its parent finds it by.
        start: Position of its first token.
        mirrored: Whether its slots are on the CPU too; see `SlotPieces`.

    Attributes:
        locks: Requests that use it, itself or something below it.
        last: When it was used last.
        queued: Whether the queue of what may go holds it.
        alive: Whether it is in the tree.
        spans: What of it window layers have, in order.
        window_locks: Intervals of its tokens that window layers must keep -> for how many requests.
        window_locked: Tokens of `spans` inside any of them.
    """

    __slots__ = (
        "alive",
        "children",
        "end",
        "key",
        "last",
        "locks",
        "parent",
        "queued",
        "slots",
        "spans",
        "start",
        "tokens",
        "window_locked",
        "window_locks",
    )

    def __init__(self, parent: Stretch | None, key: Any, start: int, mirrored: bool) -> None:
        self.parent = parent
        self.key = key
        self.start = start
        self.end = start
        self.children: dict[Any, Stretch] = {}
        self.tokens = GrowingArray(start, 1, BLOCK_VALUES, np.int64)
        self.slots = SlotPieces(start, mirrored)
        self.locks = 0
        self.last = 0
        self.queued = False
        self.alive = True
        self.spans: list[Span] = []
        self.window_locks: dict[Interval, int] = {}
        self.window_locked = 0

    @property
    def size(self) -> int:
        """Tokens of the stretch."""
        return self.end - self.start


@dataclass(slots=True, eq=False)
class Place:
    """The end of a prefix. It stays right when stretches are cut or grow; what holds it in the tree is a lock.

    Attributes:
        position: Tokens from the root, whole pages.
        stretch: The one with start < position <= end, or the root; brought up to date by `resolve`.
        buffer: What the request that moves along keeps with its place.
    """

    position: int
    stretch: Stretch = field(repr=False)
    buffer: torch.Tensor | None = field(default=None, repr=False)

    def resolve(self) -> Stretch:
        """Return the stretch the prefix ends in.

        Raises:
            KVError: It was evicted.
        """
        node = self.stretch
        while self.position <= node.start and node.parent is not None:
            node = node.parent
        if not node.alive or self.position > node.end:
            raise KVError("a prefix was used after it was evicted", "lock prefixes that are still needed")
        self.stretch = node
        return node


def key_of(tokens: NDArray[np.int64], page: int) -> Hashable:
    """Return what a child is found by: its first page (one token: the id itself)."""
    return int(tokens[0]) if page == 1 else tokens[:page].tobytes()


def split(node: Stretch, at: int, page: int) -> Stretch:
    """Cut a stretch at position `at`, inside it: return a new one for the head, whose only child `node` becomes.

    Spans and window locks stay with `node`: see `Windows.divide`.
    """
    parent = node.parent
    assert parent is not None
    assert node.start < at < node.end
    head = Stretch(parent, node.key, node.start, node.slots.mirrored)
    head.end, head.tokens, head.slots = at, node.tokens.cut(at), node.slots.cut(at)
    head.locks, head.last = node.locks, node.last
    parent.children[node.key] = head
    node.parent, node.start = head, at
    node.key = key_of(node.tokens.gather(at, at + page), page)
    head.children[node.key] = node
    return head


def path(node: Stretch) -> list[Stretch]:
    """Return the stretches from `node` up to the root and without it; `node` first."""
    found: list[Stretch] = []
    while node.parent is not None:
        found.append(node)
        node = node.parent
    return found


def subtree(node: Stretch) -> list[Stretch]:
    """Return a stretch and all below it, parents before children."""
    found = [node]
    for each in found:
        found.extend(each.children.values())
    return found


def join(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return tensors one behind the other; the only one itself."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
