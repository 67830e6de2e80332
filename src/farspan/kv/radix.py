"""A prefix tree over token ids that says which KV pages already hold a prompt's beginning.

It is a pure data structure: it stores page ids that its caller allocated, hands back those to free, and owns no memory
but its own. Page ids never change by growth or by splits. Who owns what: pages given to `insert`, `extend`, `attach`,
`demote` and `restore` belong to the tree from then on, except those that the result names; pages that `remove`,
`drop_spans`, `detach`, `demote` and `restore` return belong to the caller again.

Kind 0, the primary one, has a page for every page of tokens. Other kinds of layers hold spans only, such as the last
chunk. The part of a path that is on the device comes first; nodes whose pages were moved to host memory keep their
tokens and follow. Not safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from farspan.errors import InputError
from farspan.kv.announce import Announcer
from farspan.kv.columns import BLOCK_VALUES, Column, block_pages
from farspan.kv.events import Listener, Location
from farspan.kv.eviction import EvictionQueue, Policy, Preference, Victim
from farspan.kv.integrity import check_tree
from farspan.kv.nodes import Node, Slot, Span, key_of, path, split, subtree
from farspan.kv.results import Cursor, Insertion, Match, RadixError, Released, TreeStatistics, join
from farspan.kv.spans import covered, move_spans, put_spans, take_spans
from farspan.kv.tokens import IntegerArray, as_int32

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Cursor",
    "Insertion",
    "Location",
    "Match",
    "Policy",
    "RadixError",
    "RadixTree",
    "Released",
    "Span",
    "TreeStatistics",
    "Victim",
]


class RadixTree:
    """A prefix tree.

    Args:
        page_size: Tokens a page.
        kinds: Kinds of layers, the primary one included.
        policy: Who is evicted first.
        events: Called with each `Stored` and `Removed` of the primary kind; None costs nothing.
        block_values: Token ids that a node's arrays hold a piece, see `columns`.
    """

    def __init__(
        self,
        page_size: int,
        kinds: int = 1,
        *,
        policy: Policy = Policy.LRU,
        events: Listener | None = None,
        block_values: int = BLOCK_VALUES,
    ) -> None:
        if page_size <= 0 or kinds <= 0:
            raise InputError(f"a tree of {kinds} kinds and pages of {page_size} tokens holds nothing")
        self.page_size = page_size
        self.kinds = kinds
        self._block = block_pages(page_size, block_values)
        self._announcer = Announcer(events, page_size, self._block) if events else None
        self._roots: dict[bytes, Node] = {}
        self._queue = EvictionQueue(policy, kinds)
        self._clock = 0
        self._nodes = 0
        slots = [(kind, location) for kind in range(kinds) for location in Location]
        self._held = dict.fromkeys(slots, 0)
        self._locked = dict.fromkeys(slots, 0)

    # Looking up and storing

    def match(self, tokens: IntegerArray, namespace: bytes = b"") -> Match:
        """Return the longest stored prefix of `tokens`, in whole pages; makes it the most recently used."""
        # A namespace that holds nothing yet is not entered for being asked about.
        root = self._roots.get(namespace) or Node(None, namespace, 0)
        return self._match(*self._walk(root, 0, as_int32(tokens, "token ids")))

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
        return self._put(Cursor(0, Node(None, namespace, 0)), array, as_int32(pages, "page ids"))

    def extend(self, cursor: Cursor, tokens: IntegerArray, pages: IntegerArray) -> Insertion:
        """Continue a sequence behind `cursor`; takes time for the new tokens only.

        The cursor itself moves to the new end, its locks with it, and is the result's. Where another sequence already
        stored the same continuation, the result says so, as for `insert`.

        Args:
            cursor: Where the sequence ends.
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
        earlier = Cursor(position, self._resolve(cursor))
        self._resolve(earlier)
        return earlier

    def tokens(self, cursor: Cursor) -> NDArray[np.int32]:
        """Return the token ids of a cursor's prefix."""
        node, stop = self._resolve(cursor), cursor.position // self.page_size
        return join([v for each in reversed(path(node)) for v in _views(each, "tokens", each.start, stop)])

    # Secondary kinds

    def attach(self, cursor: Cursor, kind: int, span: Span) -> NDArray[np.int32]:
        """Give the prefix of `cursor` pages of a secondary kind.

        Returns:
            The page ids that were not taken because the tree holds that kind's pages there already.

        Raises:
            InputError: There is no such kind, or the span does not lie inside the prefix.
        """
        self._check_span(cursor, kind, span.start, span.stop)
        slot = (kind, Location.DEVICE)
        span = Span(span.start, as_int32(span.pages, "page ids"))
        refused: list[NDArray[np.int32]] = []
        for node in path(self._resolve(cursor)):
            if span.start < node.end and span.stop > node.start:
                taken, held = put_spans(node, slot, span.clip(node.start, node.end))
                refused.append(held)
                self._account(node, slot, taken)
                self._queue.offer(node)
        return join(refused[::-1])

    def detach(
        self, cursor: Cursor, kind: int, start: int, stop: int, location: Location = Location.DEVICE
    ) -> NDArray[np.int32]:
        """Take pages [start, stop) of a secondary kind from the prefix of `cursor`, locked or not, and return them."""
        self._check_span(cursor, kind, start, stop)
        slot = (kind, location)
        taken: list[NDArray[np.int32]] = []
        for node in path(self._resolve(cursor)):
            part = take_spans(node, slot, start, stop)
            self._account(node, slot, -len(part))
            taken.append(part)
        return join(taken[::-1])

    # Locks

    def lock(self, cursor: Cursor) -> None:
        """Keep the prefix of `cursor` from eviction until unlocked as often."""
        node, page = self._resolve(cursor), cursor.position // self.page_size
        if page < node.end:
            cursor.node = node = split(node, page)
            self._added(node)
        self._enter(node)
        self._lock_path(node, None, 1)
        cursor.locks += 1

    def unlock(self, cursor: Cursor) -> None:
        """Undo one `lock`.

        Raises:
            RadixError: The cursor is not locked.
        """
        if not cursor.locks:
            raise RadixError("the cursor is not locked")
        node = self._resolve(cursor)
        self._lock_path(node, None, -1)
        cursor.locks -= 1
        self._leave(node)

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
        return self._queue.choose((kind, location), pages, prefer, self._clock)

    def remove(self, victim: Victim) -> Released:
        """Take a victim of the primary kind out of the tree, with everything that hangs from it in host memory."""
        node = self._claim(victim)
        parent = node.parent
        assert parent is not None
        released: dict[Slot, list[NDArray[np.int32]]] = {}
        for each in subtree(node):
            released.setdefault((0, each.location), []).append(each.pages.gather(each.start, each.end))
            for slot, spans in each.spans.items():
                released.setdefault(slot, []).extend(span.pages for span in spans)
            for slot in each.slots():
                self._account(each, slot, -each.held(slot))
            if self._announcer:
                self._announcer.removed(each, each.location)
            each.alive = False
            self._nodes -= 1
        del parent.children[node.key]
        if node.location is Location.DEVICE:
            parent.device_children -= 1
        self._lost_child(parent, node)
        return Released({slot: join(arrays) for slot, arrays in released.items()})

    def demote(self, victim: Victim, host_pages: IntegerArray) -> NDArray[np.int32]:
        """Note that a victim's pages were copied to host memory; return the device pages, which the tree gives up.

        Args:
            victim: On the device, of any kind.
            host_pages: Where each of its pages lies in host memory.
        """
        hosted = as_int32(host_pages, "host page ids")
        if victim.location is not Location.DEVICE or len(hosted) != len(victim.pages):
            raise InputError(
                f"{len(hosted)} host pages for {len(victim.pages)} pages on the {victim.location.name}"
            )
        node = self._claim(victim)
        if victim.kind:
            before, after = (victim.kind, Location.DEVICE), (victim.kind, Location.HOST)
            self._account(node, before, -len(hosted))
            self._account(node, after, len(hosted))
            move_spans(node, before, after, hosted)
            self._queue.offer(node)
        else:
            self._relocate(node, Location.HOST, hosted)
        return victim.pages

    def drop_spans(self, victim: Victim) -> NDArray[np.int32]:
        """Take a victim of a secondary kind out of the tree, whose tokens stay; return its pages."""
        if not victim.kind:
            raise InputError("the primary kind has no spans", "use remove")
        node = self._claim(victim)
        slot = (victim.kind, victim.location)
        self._account(node, slot, -node.held(slot))
        del node.spans[slot]
        return victim.pages

    def host_part(self, cursor: Cursor) -> tuple[NDArray[np.int32], ...]:
        """Return the host page ids of the part of a cursor's prefix that is in host memory, in order."""
        node, stop = self._resolve(cursor), cursor.position // self.page_size
        return tuple(
            view
            for each in reversed(path(node))
            if each.location is Location.HOST
            for view in _views(each, "pages", each.start, stop)
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
        cursor.node = self._promote(self._resolve(cursor), cursor.position // self.page_size, given)
        return hosted

    def restore_spans(self, cursor: Cursor, kind: int, span: Span) -> NDArray[np.int32]:
        """Note that pages of a secondary kind were copied back to the device; return the host page ids given up.

        Args:
            cursor: The prefix.
            kind: The layer kind.
            span: The device pages; all of them must be in host memory.
        """
        self._check_span(cursor, kind, span.start, span.stop)
        node = self._resolve(cursor)
        held = sum(covered(each, (kind, Location.HOST), span.start, span.stop) for each in path(node))
        if held != len(span.pages):
            raise InputError(f"{len(span.pages)} pages for {held} pages in host memory")
        hosted = self.detach(cursor, kind, span.start, span.stop, Location.HOST)
        refused = self.attach(cursor, kind, span)
        assert not len(refused), "a page of a secondary kind is on the device and on the host"
        return hosted

    # Books

    def statistics(self) -> TreeStatistics:
        """Return what the tree holds; takes time for every node."""
        nodes = list(self.nodes())
        return TreeStatistics(
            tokens=sum(node.size for node in nodes) * self.page_size,
            nodes=self._nodes,
            pages=dict(self._held),
            locked_pages=dict(self._locked),
            nbytes=sum(c.nbytes for n in nodes for c in (n.tokens, n.pages, n.hashes) if c is not None),
        )

    def held(self, kind: int = 0, location: Location = Location.DEVICE) -> int:
        """Return how many pages of a kind the tree holds at a location."""
        return self._held[kind, location]

    def evictable(self, kind: int = 0, location: Location = Location.DEVICE) -> int:
        """Return how many of them no lock keeps."""
        return self._held[kind, location] - self._locked[kind, location]

    def nodes(self) -> Iterator[Node]:
        """Yield every node, roots left out, parents before children."""
        for root in self._roots.values():
            yield from subtree(root)[1:]

    def check_integrity(self) -> None:
        """Raise AssertionError when the books do not balance. Takes time for everything stored."""
        nodes = list(self.nodes())
        check_tree(self._roots, nodes, self._held, self._locked)
        assert len(nodes) == self._nodes, "nodes are miscounted"
        self._queue.check_integrity(nodes)

    # How it is done

    def _enter(self, node: Node) -> None:
        """Make sure that a root which is about to be used is the tree's; other nodes are already."""
        if node.parent is None:
            assert isinstance(node.key, bytes)
            self._roots.setdefault(node.key, node)

    def _resolve(self, cursor: Cursor) -> Node:
        """Return the node a cursor ends in: the one with start < page <= end, or the root."""
        node, page = cursor.node, cursor.position // self.page_size
        while page <= node.start and node.parent is not None:
            node = node.parent
        if node.parent is None:
            assert isinstance(node.key, bytes)
            node = self._roots.get(node.key, node)
        elif not node.alive:
            raise RadixError(
                "what the cursor points at was evicted", "lock the cursors that are still needed"
            )
        cursor.node = node
        return node

    def _walk(self, node: Node, page: int, tokens: NDArray[np.int32]) -> tuple[Node, int]:
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

    def _match(self, node: Node, page: int) -> Match:
        self._clock += 1
        pages: list[NDArray[np.int32]] = []
        hosted: list[NDArray[np.int32]] = []
        spans: dict[Slot, list[Span]] = {}
        device_node, device_page = node, page
        for each in reversed(path(node)):
            each.last = self._clock
            each.hits += 1
            stop = min(page, each.end)
            if each.location is Location.DEVICE:
                device_node, device_page = each, stop
                pages.extend(_views(each, "pages", each.start, stop))
            else:
                hosted.extend(_views(each, "pages", each.start, stop))
            for slot, held in each.spans.items():
                inside = [span.clip(each.start, stop) for span in held if span.start < stop]
                spans.setdefault(slot, []).extend(inside)
        size = self.page_size
        return Match(
            length=device_page * size,
            cursor=Cursor(device_page * size, device_node),
            page_arrays=tuple(pages),
            host_length=(page - device_page) * size,
            host_cursor=Cursor(page * size, node),
            host_arrays=tuple(hosted),
            _spans={slot: tuple(held) for slot, held in spans.items()},
        )

    def _put(self, cursor: Cursor, tokens: NDArray[np.int32], pages: NDArray[np.int32]) -> Insertion:
        size = self.page_size
        if len(tokens) != len(pages) * size:
            raise InputError(f"{len(tokens)} tokens are not {len(pages)} pages of {size}")
        origin, first = self._resolve(cursor), cursor.position // size
        if origin.location is Location.HOST:
            raise RadixError("what the cursor points at is in host memory", "restore it before extending")
        self._clock += 1
        node, reached = self._walk(origin, first, tokens)
        below = path(node, above=origin)
        device = max([origin.end, *(n.end for n in below if n.location is Location.DEVICE)])
        device = min(device, reached)
        existing = tuple(
            view
            for each in [origin, *reversed(below)]
            for view in _views(each, "pages", max(first, each.start), min(device, each.end))
        )
        hosted = np.empty(0, dtype=np.int32)
        if device < reached:
            hosted = join(
                [
                    view
                    for each in reversed(below)
                    if each.location is Location.HOST
                    for view in _views(each, "pages", each.start, reached)
                ]
            )
            node = self._promote(node, reached, pages[device - first : reached - first])
        if reached - first < len(pages):
            own = cursor.locks if node is origin else 0
            rest = reached - first
            node = self._grow(node, reached, own, tokens[rest * size :], pages[rest:])
        end = first + len(pages)
        if cursor.locks and end < node.end:
            node = split(node, end)
            self._added(node)
        if cursor.locks:
            # Splits above `origin`'s end leave it on the path; a split inside it leaves its tail there.
            self._lock_path(node, origin, cursor.locks)
        for each in path(node, above=origin):
            each.last = self._clock
        origin.last = self._clock
        cursor.node, cursor.position = node, end * size
        return Insertion(cursor, (device - first) * size, existing, hosted)

    def _grow(
        self, node: Node, page: int, own_locks: int, tokens: NDArray[np.int32], pages: NDArray[np.int32]
    ) -> Node:
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
                node = split(node, page)
                self._added(node)
            parent, node = node, Node(node, key_of(tokens, self.page_size), page)
            node.tokens = Column(page, self.page_size, self._block)
            node.pages = Column(page, 1, self._block)
            self._enter(parent)
            parent.children[node.key] = node
            parent.device_children += 1
            self._nodes += 1
        node.tokens.append(tokens)
        node.pages.append(pages)
        node.end += len(pages)
        node.last = self._clock
        self._account(node, (0, Location.DEVICE), len(pages))
        self._queue.offer(node)
        if self._announcer:
            self._announcer.appended(node, page, tokens)
        return node

    def _promote(self, node: Node, stop: int, pages: NDArray[np.int32]) -> Node:
        """Give the host nodes on the path to page `stop` of `node` device pages; return the node that ends there."""
        if not len(pages):
            return node
        if stop < node.end:
            node = split(node, stop)
            self._added(node)
        done = 0
        for each in reversed(path(node)):
            if each.location is Location.HOST:
                self._relocate(each, Location.DEVICE, pages[done : done + each.size])
                done += each.size
        assert done == len(pages), "pages and the host part of the path differ"
        return node

    def _relocate(self, node: Node, location: Location, pages: NDArray[np.int32]) -> None:
        """Replace a node's pages by those at another location."""
        parent, before = node.parent, node.location
        assert parent is not None
        self._account(node, (0, before), -node.size)
        node.pages = Column(node.start, 1, self._block)
        node.pages.append(pages)
        node.location = location
        self._account(node, (0, location), node.size)
        parent.device_children += 1 if location is Location.DEVICE else -1
        if self._announcer:
            self._announcer.stored(node, node.start)
            self._announcer.removed(node, before)
        self._queue.offer(node)
        if location is Location.HOST:
            self._lost_child(parent, node)

    def _claim(self, victim: Victim) -> Node:
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
            self._added(split(node, victim.start))
        return node

    def _added(self, head: Node) -> None:
        """Take a node that a split made into the books: pages stay what they were, and the head may hold spans."""
        self._nodes += 1
        self._queue.offer(head)

    def _lost_child(self, parent: Node, child: Node) -> None:
        """A child went: its parent was used when it was, and may be next."""
        parent.last = max(parent.last, child.last)
        self._queue.offer(parent)
        self._leave(parent)

    def _leave(self, root: Node) -> None:
        """Forget a namespace that holds nothing and that nobody uses."""
        if root.parent is None and not root.children and not root.locks:
            assert isinstance(root.key, bytes)
            self._roots.pop(root.key, None)

    def _lock_path(self, node: Node, above: Node | None, count: int) -> None:
        """Add `count` locks to the nodes from `node` up to and without `above`."""
        for each in path(node, above):
            before, each.locks = each.locks, each.locks + count
            if bool(before) is not bool(each.locks):
                for slot in each.slots():
                    held = each.held(slot)
                    self._locked[slot] += held if each.locks else -held
                self._queue.offer(each)

    def _account(self, node: Node, slot: Slot, change: int) -> None:
        self._held[slot] += change
        if node.locks:
            self._locked[slot] += change

    def _check_kind(self, kind: int) -> None:
        if not 0 <= kind < self.kinds:
            raise InputError(f"the tree has {self.kinds} kinds and none is {kind}")

    def _check_span(self, cursor: Cursor, kind: int, start: int, stop: int) -> None:
        self._check_kind(kind)
        if kind == 0 or not 0 <= start <= stop <= cursor.position // self.page_size:
            raise InputError(f"kind {kind} cannot have a span [{start}, {stop}) in {cursor.position} tokens")


def _views(node: Node, column: str, start: int, stop: int) -> Iterator[NDArray[np.int32]]:
    """Yield what a node keeps of pages [start, stop), cut to its own; nothing for a root."""
    if node.parent is not None:
        yield from getattr(node, column).views(max(start, node.start), min(stop, node.end))
