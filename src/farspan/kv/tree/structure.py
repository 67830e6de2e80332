"""The structure of a prefix tree and its counts: nodes made, cut, grown, locked and moved, every page accounted for.

What `RadixTree` builds its operations from; positions here are in pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farspan.kv.tree.cache_events import Listener, Location
from farspan.kv.tree.eviction import EvictionQueue, Victim
from farspan.kv.tree.growing_arrays import GrowingArray, block_pages
from farspan.kv.tree.publish import Publisher
from farspan.kv.tree.results import Cursor, PrefixMatch, RadixError
from farspan.kv.tree.tree_node import SecondaryPages, Slot, TreeNode, key_of, path, split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Structure:
    """Roots, nodes and their totals.

    Args:
        page_size: Tokens a page.
        kinds: Kinds of layers.
        events: Told of what is stored and removed.
        block_values: Token ids that a node's arrays hold a piece.

    Attributes:
        roots: By namespace.
        queue: The nodes that may be evicted.
        publisher: Tells `events`; None when there is nobody to tell.
        clock: Counts operations: the measure of age.
        nodes: How many there are, roots not counted.
        held: Pages by kind and location.
        locked: Those of them in locked nodes.
    """

    def __init__(self, page_size: int, kinds: int, events: Listener | None, block_values: int) -> None:
        self.page_size = page_size
        self.block = block_pages(page_size, block_values)
        self.roots: dict[bytes, TreeNode] = {}
        self.queue = EvictionQueue(kinds)
        self.publisher = Publisher(events, page_size, self.block) if events else None
        self.clock = 0
        self.nodes = 0
        slots = [(kind, location) for kind in range(kinds) for location in Location]
        self.held: dict[Slot, int] = dict.fromkeys(slots, 0)
        self.locked: dict[Slot, int] = dict.fromkeys(slots, 0)

    def enter(self, node: TreeNode) -> None:
        """Make sure that a root which is about to be used is the tree's; other nodes are already."""
        if node.parent is None:
            assert isinstance(node.key, bytes)
            self.roots.setdefault(node.key, node)

    def leave(self, root: TreeNode) -> None:
        """Forget a namespace that holds nothing and that nobody uses."""
        if root.parent is None and not root.children and not root.locks:
            assert isinstance(root.key, bytes)
            self.roots.pop(root.key, None)

    def resolve(self, cursor: Cursor) -> TreeNode:
        """Return the node a cursor ends in: the one with start < page <= end, or the root."""
        node, page = cursor.node, cursor.position // self.page_size
        while page <= node.start and node.parent is not None:
            node = node.parent
        if node.parent is None:
            assert isinstance(node.key, bytes)
            node = self.roots.get(node.key, node)
        elif not node.alive:
            raise RadixError(
                "what the cursor points at was evicted", "lock the cursors that are still needed"
            )
        cursor.node = node
        return node

    def walk(self, node: TreeNode, page: int, tokens: NDArray[np.int32]) -> tuple[TreeNode, int]:
        """Follow `tokens` from page `page` of `node` on; return the node and page where the tree leaves them."""
        size = self.page_size
        done, count = 0, len(tokens) // size
        while True:
            if page < node.end:
                same = node.tokens.common(page, tokens[done * size :])
                done += same
                page += same
                if page < node.end:
                    return node, page
            if done == count:
                return node, page
            child = node.children.get(key_of(tokens[done * size :], size))
            if child is None:
                return node, page
            node = child

    def collect(self, node: TreeNode, page: int) -> PrefixMatch:
        """Return what the tree holds up to page `page` of `node`, now the most recently used."""
        self.clock += 1
        pages: list[NDArray[np.int32]] = []
        hosted: list[NDArray[np.int32]] = []
        pieces: dict[Slot, list[SecondaryPages]] = {}
        device_node, device_page = node, page
        for each in reversed(path(node)):
            each.last = self.clock
            stop = min(page, each.end)
            if each.location is Location.DEVICE:
                device_node, device_page = each, stop
                pages.extend(each.page_views(each.start, stop))
            else:
                hosted.extend(each.page_views(each.start, stop))
            for slot, held in each.secondary.items():
                inside = [piece.clip(each.start, stop) for piece in held if piece.start < stop]
                pieces.setdefault(slot, []).extend(inside)
        size = self.page_size
        return PrefixMatch(
            length=device_page * size,
            cursor=Cursor(device_page * size, device_node),
            page_arrays=tuple(pages),
            host_length=(page - device_page) * size,
            host_cursor=Cursor(page * size, node),
            host_arrays=tuple(hosted),
            _secondary={slot: tuple(held) for slot, held in pieces.items()},
        )

    def grow(
        self, node: TreeNode, page: int, own_locks: int, tokens: NDArray[np.int32], pages: NDArray[np.int32]
    ) -> TreeNode:
        """Store tokens behind page `page` of `node`, where nothing continues with them; return their node."""
        in_place = (
            node.parent is not None
            and page == node.end
            and not node.children
            and node.locks == own_locks
            and node.location is Location.DEVICE
        )
        if not in_place:
            if page < node.end:
                node = self.cut(node, page)
            parent, node = node, TreeNode(node, key_of(tokens, self.page_size), page)
            node.tokens = GrowingArray(page, self.page_size, self.block)
            node.pages = GrowingArray(page, 1, self.block)
            self.enter(parent)
            parent.adopt(node)
            parent.device_children += 1
            self.nodes += 1
        node.tokens.append(tokens)
        node.pages.append(pages)
        node.end += len(pages)
        node.last = self.clock
        self.account(node, (0, Location.DEVICE), len(pages))
        self.queue.offer(node)
        if self.publisher:
            self.publisher.appended(node, page, tokens)
        return node

    def promote(self, node: TreeNode, stop: int, pages: NDArray[np.int32]) -> TreeNode:
        """Give the host nodes on the path to page `stop` of `node` device pages; return the node that ends there."""
        if not len(pages):
            return node
        if stop < node.end:
            node = self.cut(node, stop)
        done = 0
        for each in reversed(path(node)):
            if each.location is Location.HOST:
                self.relocate(each, Location.DEVICE, pages[done : done + each.size])
                done += each.size
        assert done == len(pages), "pages and the host part of the path differ"
        return node

    def relocate(self, node: TreeNode, location: Location, pages: NDArray[np.int32]) -> None:
        """Replace a node's pages by those at another location."""
        parent, before = node.parent, node.location
        assert parent is not None
        self.account(node, (0, before), -node.size)
        node.pages = GrowingArray(node.start, 1, self.block)
        node.pages.append(pages)
        node.location = location
        self.account(node, (0, location), node.size)
        parent.device_children += 1 if location is Location.DEVICE else -1
        if self.publisher:
            self.publisher.stored(node, node.start)
            self.publisher.removed(node, before)
        self.queue.offer(node)
        if location is Location.HOST:
            self.lost_child(parent, node)

    def claim(self, victim: Victim) -> TreeNode:
        """Return the node of a victim, cut to it, or raise when the tree has changed since it was chosen."""
        node = victim.node
        held = node.alive and node.end == victim.end and node.start <= victim.start
        if victim.kind:
            held = held and node.held((victim.kind, victim.location)) == len(victim.pages)
        else:
            held = held and node.location is victim.location
            held = held and not (
                node.device_children if victim.location is Location.DEVICE else node.children
            )
        if not held or node.locks:
            raise RadixError(
                "the victim is in use or was changed since it was chosen", "choose victims again"
            )
        if not victim.kind and victim.start > node.start:
            self.cut(node, victim.start)
        return node

    def cut(self, node: TreeNode, at: int) -> TreeNode:
        """Split a node inside, see `nodes.split`; return the new head. Pages stay what they were."""
        head = split(node, at)
        self.nodes += 1
        self.queue.offer(head)
        return head

    def lost_child(self, parent: TreeNode, child: TreeNode) -> None:
        """A child went: its parent was used when it was, and may be next."""
        parent.last = max(parent.last, child.last)
        self.queue.offer(parent)
        self.leave(parent)

    def lock_path(self, node: TreeNode, above: TreeNode | None, count: int) -> None:
        """Add `count` locks to the nodes from `node` up to and without `above`."""
        for each in path(node, above):
            before, each.locks = each.locks, each.locks + count
            if bool(before) is not bool(each.locks):
                for slot in each.slots():
                    held = each.held(slot)
                    self.locked[slot] += held if each.locks else -held
                self.queue.offer(each)

    def account(self, node: TreeNode, slot: Slot, change: int) -> None:
        """Note that a node holds `change` pages more of a kind at a location."""
        self.held[slot] += change
        if node.locks:
            self.locked[slot] += change
