"""Whether a prefix tree's counts and states are right: the check behind `RadixTree.check_integrity`."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from farspan.kv.tree.cache_events import Location, chain, namespace_hash
from farspan.kv.tree.tree_node import Slot, TreeNode, first_page, path

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_tree(
    roots: dict[bytes, TreeNode],
    nodes: list[TreeNode],
    held: dict[Slot, int],
    locked: dict[Slot, int],
) -> None:
    """Raise AssertionError when a node, its place in the tree, or the totals are wrong."""
    for name, root in roots.items():
        assert (root.parent, root.key, root.end) == (None, name, 0), "a root is not a root"
        _check_children(root)
    for node in nodes:
        _check_node(node)
        _check_children(node)
    for slot in held:
        pages = [ids for node in nodes for ids in _pages(node, slot)]
        total = sum(len(ids) for ids in pages)
        assert total == held[slot], f"pages of {slot} are miscounted"
        assert sum(node.held(slot) for node in nodes if node.locks) == locked[slot], (
            f"locks of {slot} miscounted"
        )
        if total:
            assert len(np.unique(np.concatenate(pages))) == total, f"a page of {slot} is stored twice"


def _check_node(node: TreeNode) -> None:
    assert node.alive, "a node is dead"
    assert node.end > node.start, "a node is empty"
    assert node.parent is not None, "a node has no parent"
    assert node.parent.end == node.start, "a node does not start where its parent ends"
    for array in (node.tokens, node.pages, node.hashes):
        if array is not None:
            assert (array.first, array.end) == (node.start, node.end), "an array does not cover its node"
            array.check_integrity()
    assert node.parent.children.get(node.key) is node, "a node is not found by its key"
    assert first_page(node) == node.key, "a node's key is not its first page"
    if node.parent.location is Location.HOST:
        assert node.location is Location.HOST, "a node on the device hangs from one on the host"
    for slot, pieces in node.secondary.items():
        assert slot[0] > 0, "the primary kind has secondary pages"
        assert pieces, "no pieces are kept as an empty list"
        for before, after in pairwise(pieces):
            assert before.stop < after.start, "pieces overlap, touch or are out of order"
        assert node.start <= pieces[0].start, "a piece starts before its node"
        assert pieces[-1].stop <= node.end, "a piece ends behind its node"
    for (kind, location), pieces in node.secondary.items():
        other = node.secondary.get((kind, Location(1 - location)), [])
        for piece in pieces:
            assert all(piece.stop <= o.start or o.stop <= piece.start for o in other), (
                "a page is in two places"
            )
    if node.hashes is not None:
        _check_hashes(node)


def _check_children(node: TreeNode) -> None:
    device = sum(child.location is Location.DEVICE for child in node.children.values())
    assert node.device_children == device, "children on the device are miscounted"
    assert node.locks >= sum(child.locks for child in node.children.values()), (
        "a lock below is not counted above"
    )


def _check_hashes(node: TreeNode) -> None:
    parent = node.parent
    assert parent is not None
    assert node.hashes is not None
    if parent.parent is None:
        root = path(node)[-1].key
        assert isinstance(root, bytes)
        before = namespace_hash(root)
    else:
        assert parent.hashes is not None
        before = int(parent.hashes.gather(parent.end - 1, parent.end)[0])
    tokens = node.tokens.gather(node.start, node.end)
    expected = chain(before, tokens, len(tokens) // node.size)
    assert np.array_equal(node.hashes.gather(node.start, node.end), expected), "a hash does not chain"


def _pages(node: TreeNode, slot: Slot) -> list[NDArray[np.int32]]:
    if slot[0]:
        return [piece.pages for piece in node.secondary.get(slot, ())]
    return [node.pages.gather(node.start, node.end)] if node.location is slot[1] else []
