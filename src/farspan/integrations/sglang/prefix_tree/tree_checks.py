"""Whether the tree's counts and states are right; raises AssertionError where not."""

from __future__ import annotations

from itertools import pairwise

import torch

from farspan.integrations.sglang.prefix_tree.linear_tree import LinearTree
from farspan.integrations.sglang.prefix_tree.stretch import Stretch, key_of
from farspan.integrations.sglang.prefix_tree.windows import merged


def check_tree_counts(tree: LinearTree) -> None:
    """Check places, counts, spans and locks; takes time for every stretch, not for every token."""
    held = locked = window_held = window_locked = 0
    for node in tree.nodes():
        _check_stretch(tree, node)
        held += node.size
        locked += node.size if node.locks else 0
        window_held += sum(span.stop - span.start for span in node.spans)
        window_locked += node.window_locked
    assert (held, locked) == (tree.held, tree.locked), "tokens are miscounted"
    if tree.windows:
        found = (tree.windows.held, tree.windows.locked)
        assert (window_held, window_locked) == found, "tokens of window layers are miscounted"


def check_tree_slots(tree: LinearTree) -> None:
    """Check that no slot is in the tree twice; takes time for every token."""
    slots = tree.slots()
    if slots:
        joined = torch.cat(slots)
        assert len(joined) == tree.held, "a token has no slot"
        assert len(torch.unique(joined)) == len(joined), "a slot is in the tree twice"


def _check_stretch(tree: LinearTree, node: Stretch) -> None:
    parent = node.parent
    assert parent is not None
    assert node.alive, "a stretch is dead"
    assert node.end > node.start == parent.end, "a stretch does not start where its parent ends"
    first = key_of(node.tokens.gather(node.start, node.start + tree.page), tree.page)
    assert parent.children.get(node.key) is node, "a stretch is not found by its key"
    assert (node.key if parent.parent is not None else node.key[1]) == first, "a key is not the first page"
    assert node.locks >= sum(child.locks for child in node.children.values()), "a lock below is missing above"
    assert (node.tokens.end, node.slots.end) == (node.end, node.end), "an array does not cover its stretch"
    assert node.queued or node.locks or node.children, "a leaf that may go is not queued"
    for span in node.spans:
        assert span.stretch is node, "a span is another stretch's"
        assert node.start <= span.start < span.stop <= node.end, "a span is not inside its stretch"
        assert tree.windows is not None
        assert span.queued or not tree.windows.unlocked(span), "a span that may go is not queued"
    for before, after in pairwise(node.spans):
        assert before.stop <= after.start, "spans overlap or are out of order"
    kept = sum(
        max(0, min(high, span.stop) - max(low, span.start))
        for low, high in merged(node.window_locks)
        for span in node.spans
    )
    assert kept == node.window_locked, "locked tokens of window layers are miscounted"
