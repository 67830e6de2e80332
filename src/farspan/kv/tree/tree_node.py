"""The nodes of a prefix tree: a stretch of tokens, their pages, and the pages other layer kinds hold there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from farspan.kv.tree.cache_events import Location
from farspan.kv.tree.growing_arrays import GrowingArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

Key = int | bytes
Slot = tuple[int, Location]


class SecondaryPages(NamedTuple):
    """Page ids (int32) that a secondary kind holds for pages [start, start + len(pages)) of a sequence."""

    start: int
    pages: NDArray[np.int32]

    @property
    def stop(self) -> int:
        """The page behind the last."""
        return self.start + len(self.pages)

    def clip(self, start: int, stop: int) -> SecondaryPages:
        """Return the part inside pages [start, stop); views, not copies."""
        low, high = max(start, self.start), min(stop, self.stop)
        return SecondaryPages(low, self.pages[low - self.start : max(low, high) - self.start])


# What a node without children or secondary pages points at, so that leaves carry no empty dictionaries; read only.
_NO_CHILDREN: dict[Key, TreeNode] = {}
_NO_SECONDARY: dict[Slot, list[SecondaryPages]] = {}
_NOTHING = GrowingArray(0, 1, 1)


class TreeNode:
    """Pages [start, end) of every sequence that goes through it; start and end count from the root, in pages.

    A root has no parent, no pages, and its namespace for a key.
    """

    __slots__ = (
        "alive",
        "children",
        "device_children",
        "end",
        "hashes",
        "key",
        "last",
        "location",
        "locks",
        "pages",
        "parent",
        "queued",
        "secondary",
        "start",
        "tokens",
    )

    def __init__(self, parent: TreeNode | None, key: Key, start: int) -> None:
        self.parent = parent
        self.key = key
        self.start = start
        self.end = start
        self.children = _NO_CHILDREN
        self.device_children = 0
        self.tokens = _NOTHING
        self.pages = _NOTHING
        self.hashes: GrowingArray | None = None
        self.location = Location.DEVICE
        self.secondary = _NO_SECONDARY
        self.locks = 0
        self.last = 0
        self.queued = 0
        self.alive = True

    @property
    def size(self) -> int:
        """Pages of the node."""
        return self.end - self.start

    def adopt(self, child: TreeNode) -> None:
        """Make `child` a child, found by its key."""
        if self.children is _NO_CHILDREN:
            self.children = {}
        self.children[child.key] = child

    def page_views(self, start: int, stop: int) -> list[NDArray[np.int32]]:
        """Return the page ids of pages [start, stop), cut to the node's own, as views; none for a root."""
        return self.pages.views(max(start, self.start), min(stop, self.end))

    def held(self, slot: Slot) -> int:
        """Return how many pages of a kind at a location the node holds."""
        if slot[0] == 0:
            return self.size if slot[1] is self.location else 0
        return sum(len(piece.pages) for piece in self.secondary.get(slot, ()))

    def slots(self) -> list[Slot]:
        """Return the kinds and locations that the node holds pages of."""
        return [(0, self.location), *self.secondary]


def split(node: TreeNode, at: int) -> TreeNode:
    """Cut `node` at page `at`, inside it: return a new node for the head, whose only child `node` becomes.

    `node` stays the tail, so whoever points beyond the cut still points right; who points before it climbs.
    """
    parent = node.parent
    assert parent is not None, "a root cannot be split"
    assert node.start < at < node.end, "a split must fall inside a node"
    head = TreeNode(parent, node.key, node.start)
    head.end = at
    head.tokens, head.pages = node.tokens.cut(at), node.pages.cut(at)
    if node.hashes is not None:
        head.hashes = node.hashes.cut(at)
    head.location, head.locks, head.last = node.location, node.locks, node.last
    for slot, pieces in list(node.secondary.items()):
        replace_secondary(head, slot, [piece.clip(node.start, at) for piece in pieces])
        replace_secondary(node, slot, [piece.clip(at, node.end) for piece in pieces])
    parent.adopt(head)
    node.start = at
    node.key = first_page(node)
    node.parent = head
    head.adopt(node)
    head.device_children = 1 if node.location is Location.DEVICE else 0
    return head


def replace_secondary(node: TreeNode, slot: Slot, pieces: list[SecondaryPages]) -> None:
    """Make `pieces` what the node holds of a kind at a location; empty pieces are dropped, adjacent ones joined."""
    joined: list[SecondaryPages] = []
    for piece in sorted((piece for piece in pieces if len(piece.pages)), key=lambda piece: piece.start):
        if joined and joined[-1].stop == piece.start:
            joined[-1] = SecondaryPages(joined[-1].start, np.concatenate([joined[-1].pages, piece.pages]))
        else:
            # A copy of a small part, so that a dropped piece does not live on through it.
            joined.append(
                piece if piece.pages.base is None else SecondaryPages(piece.start, piece.pages.copy())
            )
    if joined:
        if node.secondary is _NO_SECONDARY:
            node.secondary = {}
        node.secondary[slot] = joined
    elif slot in node.secondary:
        del node.secondary[slot]


def key_of(tokens: NDArray[np.int32], page_size: int) -> Key:
    """Return what a child is found by: its first page's token ids (one: the id itself)."""
    return int(tokens[0]) if page_size == 1 else tokens[:page_size].tobytes()


def first_page(node: TreeNode) -> Key:
    """Return the key of a node, read from its tokens."""
    tokens = node.tokens.gather(node.start, node.start + 1)
    return key_of(tokens, len(tokens))


def path(node: TreeNode, above: TreeNode | None = None) -> list[TreeNode]:
    """Return the nodes from `node` up to its root, or up to and without `above`; `node` first."""
    nodes = []
    step: TreeNode | None = node
    while step is not None and step is not above:
        nodes.append(step)
        step = step.parent
    return nodes


def subtree(node: TreeNode) -> list[TreeNode]:
    """Return a node and everything below it, parents before children."""
    nodes = [node]
    for each in nodes:
        nodes.extend(each.children.values())
    return nodes
