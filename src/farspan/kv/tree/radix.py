"""A prefix tree over token ids that says which KV pages already hold a prompt's beginning.

It stores page ids that its caller allocated, and owns no memory but its own; growth and splits change none of them:

==============================================================  ============  ======================================
pages                                                           before        after
==============================================================  ============  ======================================
given to `insert`, `extend`, `attach`                           the caller's  the tree's, unless the result names them
given to `demote`, `restore`, `restore_secondary`               the caller's  the tree's
that these, `remove`, `drop_secondary` and `detach` return      the tree's    the caller's, to free
==============================================================  ============  ======================================

Kind 0, the primary one, has a page for every page of tokens. Other kinds of layers hold some only, such as the last
chunk. The part of a path that is on the device comes first; nodes whose pages were moved to host memory keep their
tokens and follow. Not safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from farspan.errors import InputError
from farspan.kv.tree.cache_events import Listener, Location
from farspan.kv.tree.eviction import Preference, Victim
from farspan.kv.tree.growing_arrays import BLOCK_VALUES
from farspan.kv.tree.integrity import check_tree
from farspan.kv.tree.results import Cursor, Insertion, PrefixMatch, RadixError, Released, TreeStatistics, join
from farspan.kv.tree.secondary_pages import covered, move_secondary, put_secondary, take_secondary
from farspan.kv.tree.structure import Structure
from farspan.kv.tree.token_ids import IntegerArray, as_int32
from farspan.kv.tree.tree_node import SecondaryPages, Slot, TreeNode, path, subtree

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Cursor",
    "Insertion",
    "Location",
    "PrefixMatch",
    "RadixError",
    "RadixTree",
    "Released",
    "SecondaryPages",
    "TreeStatistics",
    "Victim",
]


class RadixTree:
    """A prefix tree.

    Args:
        page_size: Tokens a page.
        kinds: Kinds of layers, the primary one included.
        events: Called with each `Stored` and `Removed` of the primary kind; None costs nothing.
        block_values: Token ids that a node's arrays hold a piece, see `arrays`.
    """

    def __init__(
        self,
        page_size: int,
        kinds: int = 1,
        *,
        events: Listener | None = None,
        block_values: int = BLOCK_VALUES,
    ) -> None:
        if page_size <= 0 or kinds <= 0:
            raise InputError(f"a tree of {kinds} kinds and pages of {page_size} tokens holds nothing")
        self.page_size = page_size
        self.kinds = kinds
        self._structure = Structure(page_size, kinds, events, block_values)

    def match(self, tokens: IntegerArray, namespace: bytes = b"") -> PrefixMatch:
        """Return the longest stored prefix of `tokens`, in whole pages; makes it the most recently used."""
        # A namespace that holds nothing yet is not entered for being asked about.
        root = self._structure.roots.get(namespace) or TreeNode(None, namespace, 0)
        return self._structure.collect(*self._structure.walk(root, 0, as_int32(tokens, "token ids")))

    def insert(self, tokens: IntegerArray, pages: IntegerArray, namespace: bytes = b"") -> Insertion:
        """Store a sequence from its start.

        Args:
            tokens: Token ids; those behind the last whole page are ignored.
            pages: A page id of the primary kind for each whole page.
            namespace: Sequences of different namespaces share nothing.

        Raises:
            InputError: The number of pages is not that of whole pages.
        """
        array = as_int32(tokens, "token ids")
        array = array[: len(array) // self.page_size * self.page_size]
        return self._put(Cursor(0, TreeNode(None, namespace, 0)), array, as_int32(pages, "page ids"))

    def extend(self, cursor: Cursor, tokens: IntegerArray, pages: IntegerArray) -> Insertion:
        """Continue a sequence behind `cursor`; takes time for the new tokens only.

        The cursor itself moves to the new end, its locks with it, and is the result's. Where another sequence already
        stored the same continuation, the result says so, as for `insert`.

        Args:
            tokens: Token ids of whole pages.
            pages: A page id of the primary kind for each.

        Raises:
            InputError: The tokens are not whole pages, or have not one page id each.
            RadixError: What the cursor points at was evicted or moved to the host.
        """
        return self._put(cursor, as_int32(tokens, "token ids"), as_int32(pages, "page ids"))

    def back(self, cursor: Cursor, position: int) -> Cursor:
        """Return an unlocked cursor to an earlier position, a multiple of the page size, on the same path."""
        if not 0 <= position <= cursor.position or position % self.page_size:
            raise InputError(f"{position} is no page border before {cursor.position}")
        # Not by way of the cursor's own end: that may be evicted where the earlier place is not.
        earlier = Cursor(position, cursor.node)
        self._structure.resolve(earlier)
        return earlier

    def tokens(self, cursor: Cursor) -> NDArray[np.int32]:
        """Return the token ids of a cursor's prefix."""
        node, stop = self._structure.resolve(cursor), cursor.position // self.page_size
        return join(
            [v for each in reversed(path(node)) for v in each.tokens.views(each.start, min(stop, each.end))]
        )

    # Secondary kinds

    def attach(self, cursor: Cursor, kind: int, piece: SecondaryPages) -> NDArray[np.int32]:
        """Give the prefix of `cursor` pages of a secondary kind.

        Returns:
            The page ids that were not taken because the tree holds that kind's pages there already.

        Raises:
            InputError: There is no such kind, or the piece does not lie inside the prefix.
        """
        self._check_secondary(cursor, kind, piece.start, piece.stop)
        slot = (kind, Location.DEVICE)
        piece = SecondaryPages(piece.start, as_int32(piece.pages, "page ids"))
        refused: list[NDArray[np.int32]] = []
        for node in path(self._structure.resolve(cursor)):
            if piece.start < node.end and piece.stop > node.start:
                taken, held = put_secondary(node, slot, piece.clip(node.start, node.end))
                refused.append(held)
                self._structure.account(node, slot, taken)
                self._structure.queue.offer(node)
        return join(refused[::-1])

    def detach(
        self, cursor: Cursor, kind: int, start: int, stop: int, location: Location = Location.DEVICE
    ) -> NDArray[np.int32]:
        """Take pages [start, stop) of a secondary kind from the prefix of `cursor`, locked or not, and return them."""
        self._check_secondary(cursor, kind, start, stop)
        slot = (kind, location)
        taken: list[NDArray[np.int32]] = []
        for node in path(self._structure.resolve(cursor)):
            part = take_secondary(node, slot, start, stop)
            self._structure.account(node, slot, -len(part))
            taken.append(part)
        return join(taken[::-1])

    # Locks

    def lock(self, cursor: Cursor) -> None:
        """Keep the prefix of `cursor` from eviction until unlocked as often."""
        node, page = self._structure.resolve(cursor), cursor.position // self.page_size
        if page < node.end:
            cursor.node = node = self._structure.cut(node, page)
        self._structure.enter(node)
        self._structure.lock_path(node, None, 1)
        cursor.locks += 1

    def unlock(self, cursor: Cursor) -> None:
        """Undo one `lock`.

        Raises:
            RadixError: The cursor is not locked.
        """
        if not cursor.locks:
            raise RadixError("the cursor is not locked")
        node = self._structure.resolve(cursor)
        self._structure.lock_path(node, None, -1)
        cursor.locks -= 1
        self._structure.leave(node)

    # Letting go

    def victims(
        self,
        kind: int,
        pages: int,
        prefer: Preference | None = None,
        location: Location = Location.DEVICE,
    ) -> list[Victim]:
        """Choose pages that may go, least recently used first and leaves before what they hang from; changes nothing.

        Args:
            kind: The layer kind.
            pages: How many are wanted; the last victim of the primary kind gives only what is missing, from its end.
            prefer: Maps page ids to how much freeing each would help (`PagePool.pressure`); decides among victims that
                are nearly equally old.
            location: Where the pages lie.

        Returns:
            Victims with at least `pages` pages together, or all there are. Apply them in this order, before the tree
            changes in any other way.
        """
        self._check_kind(kind)
        return self._structure.queue.choose((kind, location), pages, prefer, self._structure.clock)

    def remove(self, victim: Victim) -> Released:
        """Take a victim of the primary kind out of the tree, with everything that hangs from it in host memory."""
        node = self._structure.claim(victim)
        parent = node.parent
        assert parent is not None
        released: dict[Slot, list[NDArray[np.int32]]] = {}
        for each in subtree(node):
            released.setdefault((0, each.location), []).append(each.pages.gather(each.start, each.end))
            for slot, pieces in each.secondary.items():
                released.setdefault(slot, []).extend(piece.pages for piece in pieces)
            for slot in each.slots():
                self._structure.account(each, slot, -each.held(slot))
            if self._structure.publisher:
                self._structure.publisher.removed(each, each.location)
            each.alive = False
            self._structure.nodes -= 1
        del parent.children[node.key]
        if node.location is Location.DEVICE:
            parent.device_children -= 1
        self._structure.lost_child(parent, node)
        return Released({slot: join(arrays) for slot, arrays in released.items()})

    def demote(self, victim: Victim, host_pages: IntegerArray) -> NDArray[np.int32]:
        """Note that a victim's pages were copied to host memory; return the device pages, which the tree gives up.

        Args:
            victim: On the device.
            host_pages: Where each of its pages lies in host memory.
        """
        hosted = as_int32(host_pages, "host page ids")
        if victim.location is not Location.DEVICE or len(hosted) != len(victim.pages):
            raise InputError(
                f"{len(hosted)} host pages for {len(victim.pages)} pages on the {victim.location.name}"
            )
        node = self._structure.claim(victim)
        if victim.kind:
            before, after = (victim.kind, Location.DEVICE), (victim.kind, Location.HOST)
            self._structure.account(node, before, -len(hosted))
            self._structure.account(node, after, len(hosted))
            move_secondary(node, before, after, hosted)
            self._structure.queue.offer(node)
        else:
            self._structure.relocate(node, Location.HOST, hosted)
        return victim.pages

    def drop_secondary(self, victim: Victim) -> NDArray[np.int32]:
        """Take a victim of a secondary kind out of the tree, whose tokens stay; return its pages."""
        if not victim.kind:
            raise InputError("the primary kind has no secondary pages", "use remove")
        node = self._structure.claim(victim)
        slot = (victim.kind, victim.location)
        self._structure.account(node, slot, -node.held(slot))
        del node.secondary[slot]
        return victim.pages

    def host_part(self, cursor: Cursor) -> tuple[NDArray[np.int32], ...]:
        """Return the host page ids of the part of a cursor's prefix that is in host memory, in order."""
        node, stop = self._structure.resolve(cursor), cursor.position // self.page_size
        return tuple(
            view
            for each in reversed(path(node))
            if each.location is Location.HOST
            for view in each.page_views(each.start, stop)
        )

    def restore(self, cursor: Cursor, pages: IntegerArray) -> NDArray[np.int32]:
        """Note that the part of a cursor's prefix that was in host memory was copied back to the device.

        Args:
            cursor: Usually a match's `host_cursor`, locked while the copy ran.
            pages: The device page for each of `host_part(cursor)`.

        Returns:
            The host page ids, which the tree gives up.
        """
        given = as_int32(pages, "page ids")
        hosted = join(self.host_part(cursor))
        if len(given) != len(hosted):
            raise InputError(f"{len(given)} pages for {len(hosted)} pages in host memory")
        cursor.node = self._structure.promote(
            self._structure.resolve(cursor), cursor.position // self.page_size, given
        )
        return hosted

    def restore_secondary(self, cursor: Cursor, kind: int, piece: SecondaryPages) -> NDArray[np.int32]:
        """Note that pages of a secondary kind were copied back to the device; return the host page ids given up.

        Args:
            piece: The device pages; all of them must be in host memory.
        """
        self._check_secondary(cursor, kind, piece.start, piece.stop)
        node = self._structure.resolve(cursor)
        held = sum(covered(each, (kind, Location.HOST), piece.start, piece.stop) for each in path(node))
        if held != len(piece.pages):
            raise InputError(f"{len(piece.pages)} pages for {held} pages in host memory")
        hosted = self.detach(cursor, kind, piece.start, piece.stop, Location.HOST)
        refused = self.attach(cursor, kind, piece)
        assert not len(refused), "a page of a secondary kind is on the device and on the host"
        return hosted

    # Counts

    def statistics(self) -> TreeStatistics:
        """Return what the tree holds; takes time for every node."""
        nodes = list(self.nodes())
        return TreeStatistics(
            tokens=sum(node.size for node in nodes) * self.page_size,
            nodes=self._structure.nodes,
            namespaces=len(self._structure.roots),
            pages=dict(self._structure.held),
            locked_pages=dict(self._structure.locked),
            nbytes=sum(c.nbytes for n in nodes for c in (n.tokens, n.pages, n.hashes) if c is not None),
        )

    def held(self, kind: int = 0, location: Location = Location.DEVICE) -> int:
        """Return how many pages of a kind the tree holds at a location."""
        return self._structure.held[kind, location]

    def evictable(self, kind: int = 0, location: Location = Location.DEVICE) -> int:
        """Return how many of them no lock keeps."""
        return self._structure.held[kind, location] - self._structure.locked[kind, location]

    def nodes(self) -> Iterator[TreeNode]:
        """Yield every node, roots left out, parents before children."""
        for root in self._structure.roots.values():
            yield from subtree(root)[1:]

    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong. Takes time for everything stored."""
        nodes = list(self.nodes())
        check_tree(self._structure.roots, nodes, self._structure.held, self._structure.locked)
        assert len(nodes) == self._structure.nodes, "nodes are miscounted"
        self._structure.queue.check_integrity(nodes)

    def _put(self, cursor: Cursor, tokens: NDArray[np.int32], pages: NDArray[np.int32]) -> Insertion:
        size = self.page_size
        if len(tokens) != len(pages) * size:
            raise InputError(f"{len(tokens)} tokens are not {len(pages)} pages of {size}")
        origin, first = self._structure.resolve(cursor), cursor.position // size
        if origin.location is Location.HOST:
            raise RadixError("what the cursor points at is in host memory", "restore it before extending")
        self._structure.clock += 1
        node, reached = self._structure.walk(origin, first, tokens)
        below = path(node, above=origin)
        device = max([origin.end, *(n.end for n in below if n.location is Location.DEVICE)])
        device = min(device, reached)
        existing = tuple(
            view
            for each in [origin, *reversed(below)]
            for view in each.page_views(max(first, each.start), min(device, each.end))
        )
        hosted = np.empty(0, dtype=np.int32)
        if device < reached:
            hosted = join(
                [
                    view
                    for each in reversed(below)
                    if each.location is Location.HOST
                    for view in each.page_views(each.start, reached)
                ]
            )
            node = self._structure.promote(node, reached, pages[device - first : reached - first])
        if reached - first < len(pages):
            own = cursor.locks if node is origin else 0
            rest = reached - first
            node = self._structure.grow(node, reached, own, tokens[rest * size :], pages[rest:])
        end = first + len(pages)
        if cursor.locks and end < node.end:
            node = self._structure.cut(node, end)
        if cursor.locks:
            # Splits above `origin`'s end leave it on the path; a split inside it leaves its tail there.
            self._structure.lock_path(node, origin, cursor.locks)
        for each in path(node, above=origin):
            each.last = self._structure.clock
        origin.last = self._structure.clock
        cursor.node, cursor.position = node, end * size
        return Insertion(cursor, (device - first) * size, existing, hosted)

    def _check_kind(self, kind: int) -> None:
        if not 0 <= kind < self.kinds:
            raise InputError(f"the tree has {self.kinds} kinds and none is {kind}")

    def _check_secondary(self, cursor: Cursor, kind: int, start: int, stop: int) -> None:
        self._check_kind(kind)
        if kind == 0 or not 0 <= start <= stop <= cursor.position // self.page_size:
            raise InputError(f"kind {kind} cannot have a piece [{start}, {stop}) in {cursor.position} tokens")
