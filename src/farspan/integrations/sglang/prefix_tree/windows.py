"""What the tree keeps for window layers: which tokens' KV is still there, which of it is in use, which goes first.

A prefix can be used where a whole window of tokens before its end is there, or all of it. Whatever is used is kept by
intervals of positions, so that a stretch may be as long as a prompt and give up all but its last window.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from itertools import pairwise
from operator import attrgetter

from farspan.integrations.sglang.prefix_tree.age_queue import AgeQueue
from farspan.integrations.sglang.prefix_tree.stretch import Interval, Span, Stretch

_START = attrgetter("start")
# Tokens kept beside a last window, so that a prompt can also be used up to somewhat before its end: a document, say,
# that was asked another question.
_BESIDE = 2048
# Taken from when a span was used that a prompt has left behind: those go before all others, the oldest first.
_BEHIND = 2**60


class Windows:
    """The spans of all stretches, and their totals.

    Args:
        size: Tokens of the window.
        page: Tokens of a page.

    Attributes:
        held: Tokens in spans.
        locked: Those of them that are in use.
    """

    def __init__(self, size: int, page: int) -> None:
        self.size = size
        self.page = page
        self.held = 0
        self.locked = 0
        self.queue: AgeQueue[Span] = AgeQueue(lambda span: bool(self.unlocked(span)))

    def add(self, node: Stretch, start: int, stop: int, now: int) -> None:
        """Note that window layers have tokens [start, stop) of a stretch, which they had not.

        The last window, and somewhat more, is a span of its own: what is before it may go and the end is still of use.
        """
        tail = (stop - self.size - _BESIDE) // self.page * self.page
        bounds = [start, tail, stop] if tail > start else [start, stop]
        for low, high in pairwise(bounds):
            span = Span(node, low, high, now)
            insort(node.spans, span, key=_START)
            self.held += high - low
        self._recount(node)
        self._offer(node, start, stop)

    def drop(self, node: Stretch) -> int:
        """Note that a stretch leaves the tree; return the tokens it had for window layers."""
        count = 0
        for span in node.spans:
            count += span.stop - span.start
            span.stretch = None
        node.spans = []
        self.held -= count
        self._recount(node)
        return count

    def take(self, span: Span, want: int) -> Interval:
        """Give up the first of a span's tokens that are not in use, at least `want` if it has so many; return which."""
        node = span.stretch
        assert node is not None
        start, stop = self.unlocked(span)[0]
        stop = min(stop, start + -(-want // self.page) * self.page)
        node.spans.remove(span)
        span.stretch = None
        for low, high in ((span.start, start), (stop, span.stop)):
            if low < high:
                rest = Span(node, low, high, span.last)
                insort(node.spans, rest, key=_START)
        self.held -= stop - start
        self._offer(node, span.start, span.stop)
        return start, stop

    def divide(self, head: Stretch, node: Stretch) -> None:
        """Give `head` its part of what `node`, cut at its end, had."""
        at, spans, locks = head.end, node.spans, node.window_locks
        node.spans, node.window_locks = [], {}
        for span in spans:
            if span.start < at < span.stop:
                rest = Span(node, at, span.stop, span.last)
                node.spans.append(rest)
                span.stop = at
            owner = head if span.start < at else node
            span.stretch = owner
            owner.spans.append(span)
        node.spans.sort(key=_START)
        for (start, stop), count in locks.items():
            for owner, low, high in ((head, start, min(stop, at)), (node, max(start, at), stop)):
                if low < high:
                    owner.window_locks[low, high] = owner.window_locks.get((low, high), 0) + count
        for owner in (head, node):
            self._recount(owner)
            self._offer(owner, owner.start, owner.end)

    def lock(self, node: Stretch, position: int, change: int) -> None:
        """Keep, or no longer (-1), the window before `position`, which lies in `node` or at its end."""
        low = max(0, position - self.size) // self.page * self.page
        while node.parent is not None and node.end > low:
            part = max(low, node.start), min(position, node.end)
            count = node.window_locks.get(part, 0) + change
            assert count >= 0, "a window was unlocked more often than locked"
            if count:
                node.window_locks[part] = count
            else:
                del node.window_locks[part]
            self._recount(node)
            if change < 0:
                self._offer(node, *part)
            node = node.parent

    def usable(self, node: Stretch, position: int) -> int:
        """Return the longest prefix of `position` tokens, which end in `node`, that has its window."""
        stop = start = position
        while node.parent is not None:
            for span in reversed(node.spans):
                if span.start >= position:
                    continue
                high = min(span.stop, position)
                if high < start:
                    if stop - start >= self.size:
                        return stop
                    stop = high
                start = span.start
                if stop - start >= self.size:
                    return stop
            node = node.parent
        return stop if start == 0 or stop - start >= self.size else 0

    def touch(self, node: Stretch, position: int, now: int) -> None:
        """Note that the window before `position` was used."""
        low = max(0, position - self.size)
        while node.parent is not None and node.end > low:
            for span in self._inside(node, low, min(position, node.end)):
                span.last = now
            node = node.parent

    def leave_behind(self, node: Stretch, position: int) -> None:
        """Have what is well before `position`, where a sequence that went on has come to in `node`, go first.

        It is of use to sequences that leave this one there, and nobody has so far: the next touch would undo it.
        """
        limit = position - self.size - _BESIDE
        for span in reversed(node.spans):
            if span.stop > limit:
                continue
            if span.last < 0:
                return  # and so are those before it
            span.last -= _BEHIND
            self.queue.offer_again(span)

    def gaps(self, node: Stretch, start: int, stop: int) -> list[Interval]:
        """Return what of tokens [start, stop) of a stretch window layers do not have."""
        return complement([(span.start, span.stop) for span in self._inside(node, start, stop)], start, stop)

    def unlocked(self, span: Span) -> list[Interval]:
        """Return the parts of a span that may go."""
        node = span.stretch
        if node is None:
            return []
        locks = [each for each in merged(node.window_locks) if each[0] < span.stop and each[1] > span.start]
        return complement(locks, span.start, span.stop)

    def _inside(self, node: Stretch, start: int, stop: int) -> list[Span]:
        """Return the spans that overlap [start, stop), in order."""
        spans = node.spans
        index = max(0, bisect_right(spans, start, key=_START) - 1)
        found = []
        while index < len(spans) and spans[index].start < stop:
            if spans[index].stop > start:
                found.append(spans[index])
            index += 1
        return found

    def _offer(self, node: Stretch, start: int, stop: int) -> None:
        for span in self._inside(node, start, stop):
            self.queue.offer(span)

    def _recount(self, node: Stretch) -> None:
        count = 0
        for low, high in merged(node.window_locks):
            for span in self._inside(node, low, high):
                count += min(high, span.stop) - max(low, span.start)
        self.locked += count - node.window_locked
        node.window_locked = count


def complement(intervals: list[Interval], start: int, stop: int) -> list[Interval]:
    """Return what of [start, stop) is in none of the intervals, which are in order."""
    found: list[Interval] = []
    for low, high in intervals:
        if start < low:
            found.append((start, low))
        start = max(start, high)
    if start < stop:
        found.append((start, stop))
    return found


def merged(intervals: dict[Interval, int]) -> list[Interval]:
    """Return intervals that overlap or touch as one."""
    merged: list[Interval] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged
