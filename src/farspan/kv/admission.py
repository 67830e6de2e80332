"""Whether a sequence has room: now, once others have given back what they do not need, or never as things stand."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from farspan.kv.interface import KVCacheError, KVCacheShrunkError
from farspan.kv.kinds import LayerKind
from farspan.kv.memory.budget.neighbours import RoomWait
from farspan.kv.memory.drivers.driver import Driver
from farspan.kv.memory.segments import SegmentPool
from farspan.kv.prefixes import Hit, PrefixStore, no_hit
from farspan.kv.sequence import ElasticSequenceKV
from farspan.kv.sizing import CacheSize
from farspan.sizes import format_bytes

# How often each neighbour may look before a start goes on without the room it could have made: 5 s of an idle one.
_START_LOOKS = 50
_START_POLL_S = 0.05


class CacheAdmission:
    """Decides for a cache what has room.

    Args:
        size: The sizes of the cache.
        segments: Its memory.
        driver: Of the device.
        fixed_bytes: The most it may ever take; None when only the device is the limit.
        sequences: Those that are open, as they come and go.
    """

    def __init__(
        self,
        size: CacheSize,
        segments: SegmentPool,
        driver: Driver,
        fixed_bytes: int | None,
        sequences: Collection[ElasticSequenceKV],
    ) -> None:
        self._size = size
        self._segments = segments
        self._driver = driver
        self._fixed_bytes = fixed_bytes
        self._sequences = sequences
        self._kinds: Sequence[LayerKind] = ()
        self._prefixes: PrefixStore | None = None

    def keep_in(self, kinds: Sequence[LayerKind], prefixes: PrefixStore | None) -> None:
        """Take note of where sequences and prefixes are kept."""
        self._kinds, self._prefixes = kinds, prefixes

    def wait_for_start(self) -> None:
        """Wait for the memory of an idle cache, as long as neighbours look and may still make room for it."""
        wait, count = RoomWait(), self._size.start_bytes // self._size.segment_bytes
        while self._segments.budget is not None and not self._segments.promise(count):
            found = self._segments.prospect(wait)
            if found.size < self._size.start_bytes or found.looks is None or found.looks > _START_LOOKS:
                return
            time.sleep(_START_POLL_S)

    def check(self, max_length: int, wait: RoomWait | None = None) -> int:
        """Return the bytes that a sequence needs, if it may come to have them.

        Args:
            max_length: The most positions of the sequence.
            wait: Of a request that waits for room; None for one that has not begun to.

        Raises:
            KVCacheError: It does not fit; a KVCacheShrunkError where it is for limits or others that it does not.
        """
        needed = self._size.needed_bytes(max_length)
        found = self._segments.prospect(wait)
        capacity = found.size // self._size.segment_bytes * self._size.segment_bytes
        if needed <= capacity:
            return needed
        if wait is not None:
            self._segments.withdraw_wish()
        too_large = (
            f"{max_length} tokens need {format_bytes(needed)} of KV cache and there are "
            f"{format_bytes(capacity)}"
        )
        if needed > (self._fixed_bytes or self._driver.memory().total):
            raise KVCacheError(too_large, "shorten the prompt, or start it with a larger --kv-cache-gib")
        others = "" if found.limits and not found.holders else ", others hold the rest"
        which = "; ".join((*found.limits, *found.holders))
        raise KVCacheShrunkError(
            f"{too_large} now{others}{': ' if which else ''}{which}",
            "send it again later, or shorten the prompt"
            if others
            else "shorten the prompt, or raise the limit with farspan kv limit",
        )

    def admits(self, limits: tuple[int, ...], hit: Hit) -> bool:
        """Whether everybody's needs, with those of a new sequence, can be met from what is there and may be evicted.

        Args:
            limits: The most pages of each kind that the sequence holds.
            hit: What it finds computed.
        """
        if not self._sequences:  # it fits an empty cache, and this one can be emptied
            return self._segments.promise_all(self._size.segment_count([max(1, count) for count in limits]))
        missing, needed = self._lacking(limits, hit)
        return self._segments.promise(missing, needed)

    def lower_promise(self) -> None:
        """Let neighbours have what was promised to sequences that are gone, or have taken it."""
        if self._segments.budget is not None:
            none = (0,) * len(self._kinds)
            self._segments.lower_promise(*self._lacking(none, no_hit(len(self._kinds))))

    def _lacking(self, limits: Sequence[int], hit: Hit) -> tuple[int, int]:
        """Return what open sequences, and one of `limits` pages behind a hit, may come to lack, in segments.

        Returns:
            The segments beyond what is free or evictable, and those beyond what is free.
        """
        missing, needed = [], []
        for index, kind in enumerate(self._kinds):
            promised = sum(sequence.promised_pages(index) for sequence in self._sequences)
            lacking = max(0, promised + limits[index] - hit.reused_pages[index] - kind.free_pages)
            evictable = self._prefixes.evictable(index) if self._prefixes else 0
            missing.append(max(0, lacking - evictable))
            needed.append(lacking)
        return self._size.segment_count(missing), self._size.segment_count(needed)
