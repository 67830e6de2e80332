"""Pages of a secondary kind in one node: put in, taken out, moved to another location."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from farspan.kv.tree.cache_events import Location
from farspan.kv.tree.results import join
from farspan.kv.tree.tree_node import SecondaryPages, Slot, TreeNode, replace_secondary

if TYPE_CHECKING:
    from numpy.typing import NDArray


def put_secondary(node: TreeNode, slot: Slot, piece: SecondaryPages) -> tuple[int, NDArray[np.int32]]:
    """Store what of `piece`, which lies inside the node, its kind does not hold at any location yet.

    Returns:
        How many pages were taken, and the page ids that were not.
    """
    free = np.ones(len(piece.pages), dtype=bool)
    for location in Location:
        for held in _inside(node, (slot[0], location), piece.start, piece.stop):
            free[held.start - piece.start : held.stop - piece.start] = False
    new = [SecondaryPages(piece.start + at, piece.pages[at:end]) for at, end in _runs(free)]
    replace_secondary(node, slot, [*node.secondary.get(slot, ()), *new])
    return int(free.sum()), piece.pages[~free]


def take_secondary(node: TreeNode, slot: Slot, start: int, stop: int) -> NDArray[np.int32]:
    """Take pages [start, stop) of a kind at a location out of the node, and return them."""
    inside = _inside(node, slot, start, stop)
    if inside:
        pieces = node.secondary[slot]
        before = [piece.clip(piece.start, start) for piece in pieces if piece.start < start]
        after = [piece.clip(stop, piece.stop) for piece in pieces if piece.stop > stop]
        replace_secondary(node, slot, before + after)
    return join([piece.pages for piece in inside])


def move_secondary(node: TreeNode, before: Slot, after: Slot, pages: NDArray[np.int32]) -> None:
    """Move all that a kind holds at one location to another; `pages` are the new ids, in order."""
    moved, done = list(node.secondary.get(after, ())), 0
    for piece in node.secondary.pop(before):
        moved.append(SecondaryPages(piece.start, pages[done : done + len(piece.pages)]))
        done += len(piece.pages)
    replace_secondary(node, after, moved)


def covered(node: TreeNode, slot: Slot, start: int, stop: int) -> int:
    """Return how many of pages [start, stop) a kind holds in the node at a location."""
    return sum(len(piece.pages) for piece in _inside(node, slot, start, stop))


def _inside(node: TreeNode, slot: Slot, start: int, stop: int) -> list[SecondaryPages]:
    pieces = node.secondary.get(slot, ())
    return [piece.clip(start, stop) for piece in pieces if piece.start < stop and piece.stop > start]


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the [start, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
