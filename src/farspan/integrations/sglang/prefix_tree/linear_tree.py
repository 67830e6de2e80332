"""A prefix tree in which a sequence goes on from where it ended, so that a chunk of a prompt costs the chunk.

It owns the KV slots it is given: `extend` takes them, and frees those of tokens it holds; `evict` frees its own.
Positions are tokens, and every place is at a page's border. Not safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.integrations.sglang.prefix_tree.age_queue import AgeQueue
from farspan.integrations.sglang.prefix_tree.slot_owner import Gone, SlotOwner, leaf_scores, span_scores
from farspan.integrations.sglang.prefix_tree.stretch import (
    Place,
    Stretch,
    join,
    key_of,
    path,
    split,
    subtree,
)
from farspan.integrations.sglang.prefix_tree.windows import Windows, complement

# Tokens that go at once from the end of a long stretch: fewer would be a call to the allocator for every decode step.
_LEAST = 1024

# Clearly longer unused: by an eighth of the age of what is longer so.
_OLDER = 8

Tokens = NDArray[np.int64]
Kind = Literal["full", "window"]


@dataclass(frozen=True, slots=True, eq=False)
class FoundPrefix:
    """The longest usable prefix of some tokens.

    Attributes:
        place: Its end.
        slots: Its slots, as consecutive pieces.
        stored: Tokens that the tree holds of them, those included that window layers have nothing for.
    """

    place: Place
    slots: list[torch.Tensor]
    stored: int


@dataclass(frozen=True, slots=True, eq=False)
class Extended:
    """What became of tokens behind a place.

    Attributes:
        place: Their end, which has the lock that the place before had.
        known: How many of them, from the first, the tree held already.
        slots: The tree's slots for those; what was given for them was freed.
    """

    place: Place
    known: int
    slots: list[torch.Tensor]


class LinearTree:
    """See the module.

    Args:
        owner: Of the slots.
        page: Tokens of a page.
        window: Tokens of a sliding window or chunk; None for a model whose layers all attend to everything.

    Attributes:
        held: Tokens in the tree.
        locked: Those of them that requests use.
        windows: The same for window layers; None without.
    """

    def __init__(self, owner: SlotOwner, page: int = 1, window: int | None = None) -> None:
        self.owner = owner
        self.page = page
        self.held = 0
        self.locked = 0
        self.windows = Windows(window, page) if window else None
        self._clock = 0
        self._root = Stretch(None, None, 0, owner.prefers)
        self._leaves: AgeQueue[Stretch] = AgeQueue(_may_go)

    def root(self) -> Place:
        """Return the place of nothing, where every sequence starts."""
        return Place(0, self._root)

    def match(self, tokens: Tokens, namespace: Hashable = None) -> FoundPrefix:
        """Return the longest stored prefix of `tokens` that can be used, now the most recently used."""
        self._clock += 1
        node, position = self._root, 0
        while child := self._child(node, tokens[position:], namespace):
            same = self._common(child, tokens[position:])
            position += same
            node = child
            if position < child.end:
                break
        stored = position
        if self.windows:
            position = self.windows.usable(node, position)
            self.windows.touch(node, position, self._clock)
        place = Place(position, node)
        for each in path(place.resolve()):
            each.last = self._clock
        return FoundPrefix(place, self.prefix(place), stored)

    def prefix(self, place: Place) -> list[torch.Tensor]:
        """Return the slots of a prefix, as consecutive pieces."""
        found: list[torch.Tensor] = []
        for each in reversed(path(place.resolve())):
            found.extend(each.slots.views(each.start, min(place.position, each.end)))
        return found

    def extend(
        self,
        place: Place,
        tokens: Tokens,
        slots: torch.Tensor,
        window_from: int = 0,
        namespace: Hashable = None,
        *,
        window_locked: bool = True,
    ) -> Extended:
        """Store `tokens`, whole pages, behind a place that is locked; its lock moves on to their end.

        Args:
            place: Where they go on.
            tokens: Token ids.
            slots: A slot for each, the caller's own to give away.
            window_from: Window layers have the tokens from this position on.
            namespace: Sequences of different namespaces share nothing.
            window_locked: Whether the lock still keeps the window before the place.
        """
        self._clock += 1
        origin = node = place.resolve()
        assert place.position == origin.end, "a place that is not locked was extended"
        done = 0
        known: list[torch.Tensor] = []
        while child := self._child(node, tokens[done:], namespace):
            same = self._common(child, tokens[done:])
            if child.start + same < child.end:
                child = self._cut(child, child.start + same)
            self._merge(child, slots[done : done + same], window_from)
            known.extend(child.slots.views(child.start, child.end))
            child.last = self._clock
            node = child
            done += same
        if done < len(tokens):
            node = self._grow(node, tokens[done:], slots[done:], window_from, namespace, origin)
        moved = Place(place.position + len(tokens), node, place.buffer)
        step = node
        while step is not origin:
            self._lock(step, 1)
            assert step.parent is not None
            step = step.parent
        if self.windows:
            self.windows.lock(node, moved.position, 1)
            if window_locked:
                self.windows.lock(origin, place.position, -1)
            self.windows.touch(node, moved.position, self._clock)
            self.windows.leave_behind(node, moved.position)
        for each in path(origin):
            each.last = self._clock
        return Extended(moved, done, known)

    def lock(self, place: Place) -> None:
        """Keep a prefix, and the window before its end, from eviction until unlocked as often."""
        node = place.resolve()
        if place.position < node.end and node.parent is not None:
            place.stretch = node = self._cut(node, place.position)
        for each in path(node):
            self._lock(each, 1)
        if self.windows:
            self.windows.lock(node, place.position, 1)

    def unlock(self, place: Place, *, window: bool = True) -> None:
        """Undo one `lock`; its window was unlocked before unless `window`."""
        node = place.resolve()
        if window:
            self.unlock_window(place)
        for each in path(node):
            self._lock(each, -1)

    def unlock_window(self, place: Place) -> None:
        """Undo one `lock` as far as window layers go."""
        if self.windows:
            self.windows.lock(place.resolve(), place.position, -1)

    def evict(self, tokens: int, window_tokens: int = 0) -> tuple[int, int]:
        """Free slots of what was not used for longest, leaves before what they hang from.

        Args:
            tokens: How many at least.
            window_tokens: How many tokens' KV of window layers at least, what goes with `tokens` included.

        Returns:
            What was freed of both; less when nothing else may go.
        """
        gone = Gone()
        freed = window_freed = 0
        of_leaves = partial(leaf_scores, self.owner) if self.owner.prefers else None
        of_spans = partial(span_scores, self.owner) if self.owner.prefers else None
        while freed < tokens:
            node = self._leaves.pop(self._clock, of_leaves)
            if node is None:
                break
            count, window_count = self._trim(node, max(_LEAST, tokens - freed), gone)
            freed, window_freed = freed + count, window_freed + window_count
        while self.windows and window_freed < window_tokens:
            span = self.windows.queue.pop(self._clock, of_spans)
            if span is None:
                break
            node = span.stretch
            assert node is not None
            if span.stop == node.end and _may_go(node):
                # Without its last window the end of a leaf is of no use.
                count, window_count = self._trim(node, node.end - span.start, gone)
                freed += count
            else:
                want = max(_LEAST, window_tokens - window_freed)
                start, stop = self.windows.take(span, want)
                gone.window.extend(node.slots.views(start, stop))
                window_count = stop - start
            window_freed += window_count
        gone.free(self.owner)
        return freed, window_freed

    def older_kind(self) -> Kind | None:
        """Return which layers' KV was clearly longer unused, of what would go next; None where they are nearly as old.

        What a prompt left behind in window layers counts as older than everything.
        """
        leaf = self._leaves.oldest()
        span = self.windows.queue.oldest() if self.windows else None
        if leaf is None or span is None:
            return None
        slack = (self._clock - min(leaf.last, max(0, span.last))) // _OLDER
        if span.last < 0 or span.last + slack < leaf.last:
            return "window"
        return "full" if leaf.last + slack < span.last else None

    @property
    def left_behind(self) -> bool:
        """Whether window layers have something that a prompt left behind and that may go."""
        span = self.windows.queue.oldest() if self.windows else None
        return span is not None and span.last < 0

    def nodes(self) -> Iterator[Stretch]:
        """Yield every stretch, parents before children."""
        yield from subtree(self._root)[1:]

    def slots(self) -> list[torch.Tensor]:
        """Return all slots the tree owns."""
        return [view for node in self.nodes() for view in node.slots.views(node.start, node.end)]

    def _child(self, node: Stretch, tokens: Tokens, namespace: Hashable) -> Stretch | None:
        if len(tokens) < self.page:
            return None
        return node.children.get(self._key(node, tokens, namespace))

    def _key(self, node: Stretch, tokens: Tokens, namespace: Hashable) -> Hashable:
        """Return what a child is found by: its first page, and at the root its namespace."""
        first = key_of(tokens, self.page)
        return first if node.parent is not None else (namespace, first)

    def _common(self, child: Stretch, tokens: Tokens) -> int:
        same = child.tokens.common(child.start, tokens)
        return same // self.page * self.page

    def _merge(self, node: Stretch, given: torch.Tensor, window_from: int) -> None:
        """Take back slots given for tokens that a stretch holds; window layers may get what they had not."""
        if self.windows is None:
            self.owner.free(given)
            return
        first = min(max(node.start, window_from), node.end)
        gaps = self.windows.gaps(node, first, node.end)
        freed = Gone()
        if node.start < first:
            freed.full.append(given[: first - node.start])
        for start, stop in complement(gaps, first, node.end):
            freed.both.append(given[start - node.start : stop - node.start])
        for start, stop in gaps:
            kept = join(node.slots.views(start, stop))
            self.owner.move_window(kept, given[start - node.start : stop - node.start])
            self.windows.add(node, start, stop, self._clock)
        freed.free(self.owner)

    def _grow(
        self,
        node: Stretch,
        tokens: Tokens,
        slots: torch.Tensor,
        window_from: int,
        namespace: Hashable,
        origin: Stretch,
    ) -> Stretch:
        """Store tokens at the end of `node`, in place where nobody but the one who goes on uses it."""
        in_place = node is origin and node.parent is not None and not node.children and node.locks == 1
        if not in_place:
            key = self._key(node, tokens, namespace)
            parent, node = node, Stretch(node, key, node.end, self.owner.prefers)
            parent.children[key] = node
        start = node.end
        node.tokens.append(tokens)
        node.slots.append(slots.clone())
        node.end += len(tokens)
        node.last = self._clock
        self.held += len(tokens)
        if node.locks:
            self.locked += len(tokens)
        if self.windows and window_from < node.end:
            self.windows.add(node, max(start, window_from), node.end, self._clock)
        self._leaves.offer(node)
        return node

    def _cut(self, node: Stretch, at: int) -> Stretch:
        head = split(node, at, self.page)
        if self.windows:
            self.windows.divide(head, node)
        return head

    def _lock(self, node: Stretch, change: int) -> None:
        before, node.locks = node.locks, node.locks + change
        assert node.locks >= 0, "a prefix was unlocked more often than locked"
        if not before:
            self.locked += node.size
        elif not node.locks:
            self.locked -= node.size
            self._leaves.offer(node)

    def _trim(self, node: Stretch, want: int, gone: Gone) -> tuple[int, int]:
        """Take tokens from the end of a leaf that may go; return how many, of all layers and of window layers.

        Where window layers have the end, the whole last span goes: what is left of it could not be used.
        """
        at = max(node.start, (node.end - want) // self.page * self.page)
        if node.spans and node.spans[-1].stop == node.end:
            at = max(node.start, min(at, node.spans[-1].start))
        if at > node.start:
            self._cut(node, at)
        parent = node.parent
        assert parent is not None
        dead = self.windows.gaps(node, node.start, node.end) if self.windows else []
        for start, stop in dead:
            gone.full.extend(node.slots.views(start, stop))
        for start, stop in complement(dead, node.start, node.end):
            gone.both.extend(node.slots.views(start, stop))
        window_count = self.windows.drop(node) if self.windows else 0
        del parent.children[node.key]
        node.alive = False
        self.held -= node.size
        self._leaves.offer(parent)
        return node.size, window_count


def _may_go(node: Stretch) -> bool:
    return node.alive and not node.locks and not node.children and node.parent is not None
