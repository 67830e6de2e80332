"""Telling an external indexer what a prefix tree stores and removes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from farspan.kv.tree.cache_events import Listener, Location, Removed, Stored, chain, namespace_hash
from farspan.kv.tree.growing_arrays import GrowingArray
from farspan.kv.tree.tree_node import TreeNode, path

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Publisher:
    """Keeps the hash of every page in the nodes and calls a listener; made only when there is one.

    Args:
        listener: Called with every event.
        page_size: Tokens a page.
        block: Pages a block of the nodes' arrays.
    """

    def __init__(self, listener: Listener, page_size: int, block: int) -> None:
        self._listener = listener
        self._block = block
        self._page_size = page_size

    def appended(self, node: TreeNode, page: int, tokens: NDArray[np.int32]) -> None:
        """Hash the tokens that a node gained from page `page` on and tell of them."""
        if node.hashes is None:
            node.hashes = GrowingArray(page, 1, self._block, np.uint64)
        node.hashes.append(chain(_hash_before(node, page), tokens, self._page_size))
        self.stored(node, page)

    def stored(self, node: TreeNode, start: int) -> None:
        """Tell that pages from `start` to the node's end are where the node is."""
        assert node.hashes is not None
        namespace = path(node)[-1].key
        assert isinstance(namespace, bytes)
        self._listener(
            Stored(
                hashes=node.hashes.gather(start, node.end),
                parent=_hash_before(node, start) if start else None,
                tokens=node.tokens.gather(start, node.end),
                page_size=self._page_size,
                namespace=namespace,
                location=node.location,
            )
        )

    def removed(self, node: TreeNode, location: Location) -> None:
        """Tell that all pages of a node left a location."""
        assert node.hashes is not None
        self._listener(Removed(node.hashes.gather(node.start, node.end), location))


def _hash_before(node: TreeNode, page: int) -> int:
    """Return the hash that page `page` of `node` continues."""
    if page == node.start:
        assert node.parent is not None
        node = node.parent
    if node.parent is None:
        assert isinstance(node.key, bytes)
        return namespace_hash(node.key)
    assert node.hashes is not None
    return int(node.hashes.gather(page - 1, page)[0])
