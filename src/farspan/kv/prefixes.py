"""The prefixes that requests share: found, grown, let go of, kept on the host and brought back.

The tree (`kv.radix`) knows which tokens have which pages, the pools (`kv.pages`) who uses them and the tier
(`kv.tiers`) what is on the host; here they move together. A page in the tree has the tree as one of its users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from farspan.kv.kinds import LayerKind
from farspan.kv.memory.host_tier import HostTier
from farspan.kv.retention import usable
from farspan.kv.sequence_pages import PageTable
from farspan.kv.tree.cache_events import Listener, Location
from farspan.kv.tree.radix import Cursor, RadixTree, Released, SecondaryPages, Victim
from farspan.kv.tree.results import join

if TYPE_CHECKING:
    import torch

# More is evicted at a time than is asked for: what goes together leaves one piece of free memory, and a prompt that
# grows into a full cache then lies in few long runs, each a call of attention, and not in one for every step. At most a
# part of what may go, so that little is lost that might have been used again; and no more than is copied to the host
# in a moment.
_PART = 32
_LEAST_PAGES = 64
_MOST_TOKENS = 2**18
_MOST_BYTES = 2**30

TakePages = Callable[[int, int, int | None], "NDArray[np.int32]"]
"""Returns so many pages of a kind, those that follow a page first; see `ElasticKVCache.take_pages`."""


_ON_HOST = -1
"""Stands in a hit for a page that is in host memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """The part of a prompt that need not be computed again; its path in the tree is locked until released.

    Attributes:
        length: Tokens, whole pages.
        cursor: Its end in the tree, locked; None without a tree.
        pages: For each kind, the pages that a sequence of this prefix starts with; -1 where one is on the host.
        on_host: For each secondary kind, at its place, where in host memory those are; the primary kind's are asked of
            the tree.
    """

    length: int
    cursor: Cursor | None
    pages: tuple[SecondaryPages, ...]
    on_host: tuple[tuple[SecondaryPages, ...], ...]

    @property
    def reused_pages(self) -> tuple[int, ...]:
        """For each kind, the pages that are on the device already."""
        return tuple(int(np.count_nonzero(held.pages != _ON_HOST)) for held in self.pages)


def no_hit(kinds: int) -> Hit:
    """Return the hit of a prompt of which nothing is known."""
    return Hit(0, None, (SecondaryPages(0, np.empty(0, np.int32)),) * kinds, ((),) * kinds)


class PrefixStore:
    """The prefixes of one cache.

    Args:
        kinds: The kinds of layers, the one that keeps everything first.
        page_tokens: Positions a page.
        host_bytes: Host memory for prefixes that leave the device.
        device: Where the pages are.
        events: Called with what is stored and removed, for an external index; None costs nothing.
    """

    def __init__(
        self,
        kinds: Sequence[LayerKind],
        page_tokens: int,
        host_bytes: int,
        device: torch.device,
        events: Listener | None = None,
    ) -> None:
        self._kinds = kinds
        self._page_tokens = page_tokens
        self._tree = RadixTree(page_tokens, len(kinds), events=events)
        layer_bytes = [[int(rows.shape[1]) for rows in kind.page_rows] for kind in kinds]
        self._tier = HostTier(layer_bytes, host_bytes, device)
        self.evicted_tokens = 0
        self.restored_tokens = 0

    @property
    def tokens(self) -> int:
        """Tokens of prefixes on the device."""
        return self._tree.held(0) * self._page_tokens

    @property
    def host_tokens(self) -> int:
        """Tokens of prefixes on the host."""
        return self._tree.held(0, Location.HOST) * self._page_tokens

    @property
    def host_bytes(self) -> int:
        """Host memory that holds pages now."""
        return self._tier.used_bytes

    def evictable(self, kind: int) -> int:
        """Return how many pages of a kind could be evicted."""
        return self._tree.evictable(kind)

    def find(self, tokens: NDArray[np.int32], namespace: bytes, host: bool = True) -> Hit:
        """Return the longest prefix that every kind of layers can continue, locked.

        What is on the host counts when `host` says so; `secure` copies it before the hit is used.
        """
        match = self._tree.match(tokens, namespace)
        size = self._page_tokens
        locations = tuple(Location) if host else (Location.DEVICE,)
        rules = []
        for index, kind in enumerate(self._kinds[1:], 1):
            held = [each for location in locations for each in match.secondary(index, location)]
            rules.append((kind.retention, [(each.start * size, each.stop * size) for each in held]))
        length = usable(rules, match.length + (match.host_length if host else 0), size)
        cursor = self._tree.back(match.host_cursor, length)
        self._tree.lock(cursor)
        stop = length // size
        primary = match.pages[:stop]
        if len(primary) < stop:
            primary = np.concatenate((primary, np.full(stop - len(primary), _ON_HOST, np.int32)))
        pages = [SecondaryPages(0, primary)]
        on_host: list[tuple[SecondaryPages, ...]] = [()]
        for index, kind in enumerate(self._kinds[1:], 1):
            first = kind.retention.first_needed(length) // size
            found = np.full(max(0, stop - first), _ON_HOST, np.int32)
            for part in _clipped(match.secondary(index), first, stop):
                found[part.start - first : part.stop - first] = part.pages
            pages.append(SecondaryPages(first, found))
            on_host.append(_clipped(match.secondary(index, Location.HOST), first, stop))
        return Hit(length, cursor, tuple(pages), tuple(on_host))

    def secure(self, hit: Hit, take: TakePages) -> tuple[SecondaryPages, ...]:
        """Give a hit's pages to a new sequence, those in host memory copied back first; all of them or none.

        Nothing that the hit names can go meanwhile: its path is locked, and each page is counted before `take`, which
        may evict, is called for another.

        ==========================  ================  =====================================  ========================
        references of               before            after                                  after an error
        ==========================  ================  =====================================  ========================
        pages on the device         the tree: 1       the tree: 1 or 0 (*), the caller: 1    the tree: 1 or 0 (*)
        pages of the host tier      the tree          nobody: free, except what an error left
        their copies on the device  none yet          the tree: 1 or 0 (*), the caller: 1    the tree: 1, or none yet
        ==========================  ================  =====================================  ========================

        (*) 0 where making room took a secondary kind's pages out of the tree; the caller's reference keeps them.

        Returns:
            For each kind, the pages that the sequence starts with, none missing.

        Raises:
            NoRoomError: The device has no room; what came back before that stays in the tree.
        """
        counted: list[tuple[int, NDArray[np.int32]]] = []
        held = [SecondaryPages(each.start, each.pages) for each in hit.pages]

        def count(kind: int, start: int, pages: NDArray[np.int32]) -> None:
            self._kinds[kind].pool.share(pages)
            counted.append((kind, pages))
            place = held[kind]
            place.pages[start - place.start : start - place.start + len(pages)] = pages

        try:
            for kind, (start, pages) in enumerate(hit.pages):
                there = pages != _ON_HOST
                if there.all():
                    self._kinds[kind].pool.share(pages)
                    counted.append((kind, pages))
                else:
                    held[kind] = SecondaryPages(start, pages.copy())
                    self._kinds[kind].pool.share(pages[there])
                    counted.append((kind, pages[there]))
            if hit.cursor is not None:
                for start, pages in self._restore(hit.cursor, take):
                    count(0, start, pages)
                for kind, parts in enumerate(hit.on_host):
                    for part in parts:
                        pages = self._load(kind, part.pages, take, None)
                        self._tier.free(
                            kind,
                            self._tree.restore_secondary(hit.cursor, kind, SecondaryPages(part.start, pages)),
                        )
                        count(kind, part.start, pages)
        except BaseException:
            for kind, pages in counted:
                self._kinds[kind].pool.free(pages)
            raise
        assert all((each.pages != _ON_HOST).all() for each in held), "a page of a hit did not come back"
        return tuple(held)

    def release(self, cursor: Cursor) -> None:
        """Let a prefix be evicted that a hit or a sequence had locked."""
        self._tree.unlock(cursor)

    def keep(self, cursor: Cursor, tokens: NDArray[np.int32], pages: NDArray[np.int32]) -> NDArray[np.int32]:
        """Continue a sequence in the tree; the cursor moves to its new end.

        ==========================  =============  =========================
        references of               before         after
        ==========================  =============  =========================
        `pages` that are stored     the caller: 1  the tree: 1, the caller: 1
        `pages` stored by others    the caller: 1  the caller: 1
        the others' in their place  the tree: 1    the tree: 1, to be shared
        the host's in their place   the tree       nobody: free
        ==========================  =============  =========================

        The cursor's lock, which is the caller's, reaches to the new end.

        Returns:
            The tree's pages for the leading tokens that another sequence stored first; the tree takes the others.
        """
        insertion = self._tree.extend(cursor, tokens, pages)
        if len(insertion.host_pages):
            self._tier.free(0, insertion.host_pages)
        taken = pages[insertion.existing // self._page_tokens :]
        self._kinds[0].pool.share(taken)
        return join(insertion.existing_pages)

    def keep_secondary(self, cursor: Cursor, tables: Sequence[PageTable]) -> None:
        """Store what the other kinds of layers still hold of a sequence, so that it can be continued.

        =================================  =============  ==========================
        references of                      before         after
        =================================  =============  ==========================
        the tables' pages that are stored  the caller: 1  the tree: 1, the caller: 1
        those whose place was taken        the caller: 1  the caller: 1
        =================================  =============  ==========================

        The cursor's lock stays the caller's.
        """
        stop = cursor.position // self._page_tokens
        for index in range(1, len(self._kinds)):
            table = tables[index]
            if table.first_page >= stop:
                continue
            pool = self._kinds[index].pool
            pages = table.pages(table.first_page, stop)
            pool.share(pages)
            pool.free(self._tree.attach(cursor, index, SecondaryPages(table.first_page, pages)))

    def evict(self, kind: int, count: int) -> bool:
        """Let go of prefixes nobody uses, so that about `count` pages of a kind are free or whole segments are.

        Returns:
            Whether anything went.
        """
        if self._evict_kind(kind, count):
            return True
        # Pages of other kinds are no use, but segments of theirs that empty are.
        others = (index for index in range(len(self._kinds)) if index != kind)
        if any(self._evict_kind(index, self._kinds[index].pool.pages_per_segment) for index in others):
            return True
        return self._strip()

    def evict_all(self) -> None:
        """Let go of all prefixes that nobody uses; as many as there is room for stay on the host."""
        for kind in range(len(self._kinds)):
            while self._evict_kind(kind, self._tree.evictable(kind) // 4):
                pass

    def forget_all(self) -> None:
        """Forget all prefixes that nobody uses, those on the host too."""
        for kind in range(len(self._kinds)):
            for location in Location:
                while victims := self._tree.victims(kind, 2**31, location=location):
                    for victim in victims:
                        self._drop(victim)

    def check_integrity(self) -> list[NDArray[np.int32]]:
        """Raise AssertionError when a count or a state is wrong; return the pages that the tree uses, by kind."""
        self._tree.check_integrity()
        held: dict[Location, list[list[NDArray[np.int32]]]] = {
            location: [[np.empty(0, np.int32)] for _ in self._kinds] for location in Location
        }
        for node in self._tree.nodes():
            held[node.location][0].append(node.pages.gather(node.start, node.end))
            for (kind, location), pieces in node.secondary.items():
                held[location][kind] += [piece.pages for piece in pieces]
        self._tier.check_integrity([np.concatenate(pages) for pages in held[Location.HOST]])
        return [np.concatenate(pages) for pages in held[Location.DEVICE]]

    def _restore(self, cursor: Cursor, take: TakePages) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Bring back what the host has of a prefix; yield (first page's number, device pages) a piece at a time.

        What is evicted for a piece takes the host memory that the piece before has left, so that two prefixes can
        change places in a full cache beside a full tier, and neither is lost.
        """
        stop = cursor.position // self._page_tokens
        hosted = sum(map(len, self._tree.host_part(cursor)))
        piece = self._batch(0, hosted)
        last: int | None = None
        for start in range(stop - hosted, stop, piece):
            part = self._tree.back(cursor, min(start + piece, stop) * self._page_tokens)
            pages = self._load(0, join(self._tree.host_part(part)), take, last)
            self._tier.free(0, self._tree.restore(part, pages))
            self.restored_tokens += len(pages) * self._page_tokens
            last = int(pages[-1])
            yield start, pages

    def _load(
        self, kind: int, hosted: NDArray[np.int32], take: TakePages, after: int | None
    ) -> NDArray[np.int32]:
        """Return new pages of the device with the contents of pages of the host."""
        pages = take(kind, len(hosted), after)
        try:
            self._tier.load(kind, self._kinds[kind].page_rows, hosted, pages)
        except BaseException:
            self._kinds[kind].pool.free(pages)
            raise
        return pages

    def _batch(self, kind: int, whole: int) -> int:
        """Return how many pages of a kind move at a time, at least, where `whole` pages might."""
        most = min(_MOST_TOKENS // self._page_tokens, _MOST_BYTES // self._kinds[kind].page_bytes)
        return max(_LEAST_PAGES, min(whole // _PART, most))

    def _evict_kind(self, kind: int, count: int) -> bool:
        """Let go of some `count` pages of one kind or more: to the host as far as it has room, the others for good."""
        evictable = self._tree.evictable(kind)
        if not evictable:
            return False
        count = min(evictable, max(count, self._batch(kind, evictable)))
        self._make_host_room(kind, count)
        pool = self._kinds[kind].pool
        victims = self._tree.victims(kind, count, pool.pressure)
        for victim in victims:
            if kind == 0:
                self.evicted_tokens += len(victim.pages) * self._page_tokens
            host = self._tier.store(kind, self._kinds[kind].page_rows, victim.pages)
            if host is None:
                self._drop(victim)
            else:
                pool.free(self._tree.demote(victim, host))
        return bool(victims)

    def _strip(self) -> bool:
        """Let go of secondary pages that the tree keeps along prefixes in use; whoever uses them counts them too.

        Requests that continued one another leave some each on the same path. While it is locked none of them can be
        evicted, and together they may take the room that the request which locks it was promised.
        """
        freed = 0
        for node in list(self._tree.nodes()):
            for (kind, location), pieces in list(node.secondary.items()):
                if location is Location.DEVICE:
                    cursor = Cursor(node.end * self._page_tokens, node)
                    for piece in list(pieces):
                        pages = self._tree.detach(cursor, kind, piece.start, piece.stop)
                        freed += self._kinds[kind].pool.free(pages)
        return freed > 0

    def _make_host_room(self, kind: int, count: int) -> None:
        """Forget the oldest prefixes on the host, as far as that makes room for `count` pages."""
        while (missing := min(count, self._tier.most(kind)) - self._tier.room(kind)) > 0:
            victims = self._tree.victims(kind, missing, location=Location.HOST)
            if not victims:
                return
            for victim in victims:
                self._drop(victim)

    def _drop(self, victim: Victim) -> None:
        if victim.kind:
            pages = {(victim.kind, victim.location): self._tree.drop_secondary(victim)}
            self._free(Released(pages))
        else:
            self._free(self._tree.remove(victim))

    def _free(self, released: Released) -> None:
        for (kind, location), pages in released.pages.items():
            if location is Location.DEVICE:
                self._kinds[kind].pool.free(pages)
            else:
                self._tier.free(kind, pages)


def _clipped(parts: Iterable[SecondaryPages], start: int, stop: int) -> tuple[SecondaryPages, ...]:
    """Return what lies in pages [start, stop)."""
    clipped = (part.clip(start, stop) for part in parts)
    return tuple(part for part in clipped if len(part.pages))
