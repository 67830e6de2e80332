"""Spans of a secondary kind in one node: put in, taken out, moved to another location."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from farspan.kv.tree.cache_events import Location
from farspan.kv.tree.results import join
from farspan.kv.tree.tree_node import SecondaryPages, Slot, TreeNode, replace_spans

if TYPE_CHECKING:
    from numpy.typing import NDArray


def put_spans(node: TreeNode, slot: Slot, span: SecondaryPages) -> tuple[int, NDArray[np.int32]]:
    """Store what of `span`, which lies inside the node, its kind does not hold at any location yet.

    Returns:
        How many pages were taken, and the page ids that were not.
    """
    free = np.ones(len(span.pages), dtype=bool)
    for location in Location:
        for held in _inside(node, (slot[0], location), span.start, span.stop):
            free[held.start - span.start : held.stop - span.start] = False
    new = [SecondaryPages(span.start + at, span.pages[at:end]) for at, end in _runs(free)]
    replace_spans(node, slot, [*node.spans.get(slot, ()), *new])
    return int(free.sum()), span.pages[~free]


def take_spans(node: TreeNode, slot: Slot, start: int, stop: int) -> NDArray[np.int32]:
    """Take pages [start, stop) of a kind at a location out of the node, and return them."""
    inside = _inside(node, slot, start, stop)
    if inside:
        spans = node.spans[slot]
        before = [span.clip(span.start, start) for span in spans if span.start < start]
        after = [span.clip(stop, span.stop) for span in spans if span.stop > stop]
        replace_spans(node, slot, before + after)
    return join([span.pages for span in inside])


def move_spans(node: TreeNode, before: Slot, after: Slot, pages: NDArray[np.int32]) -> None:
    """Move all that a kind holds at one location to another; `pages` are the new ids, in order."""
    moved, done = list(node.spans.get(after, ())), 0
    for span in node.spans.pop(before):
        moved.append(SecondaryPages(span.start, pages[done : done + len(span.pages)]))
        done += len(span.pages)
    replace_spans(node, after, moved)


def covered(node: TreeNode, slot: Slot, start: int, stop: int) -> int:
    """Return how many of pages [start, stop) a kind holds in the node at a location."""
    return sum(len(span.pages) for span in _inside(node, slot, start, stop))


def _inside(node: TreeNode, slot: Slot, start: int, stop: int) -> list[SecondaryPages]:
    spans = node.spans.get(slot, ())
    return [span.clip(start, stop) for span in spans if span.start < stop and span.stop > start]


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the [start, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
