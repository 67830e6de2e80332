"""Memory for what SGLang's scheduler is about to admit, before it admits it.

Once a request is admitted an allocation that fails ends the server. So what SGLang asks before it admits, how many
tokens are available, is answered with tokens that have memory; and before it asks, memory is secured for what it is
about to ask for: growth first, then what the other kind of layers has cached, and otherwise the request waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from farspan.integrations.sglang.device_memory import DeviceMemory
from farspan.integrations.sglang.kv_allocators import SlotLedger, ledgers
from farspan.integrations.sglang.rank_agreement import DelayedEvictor
from farspan.integrations.sglang.shared_budget import CachedPrefixes
from farspan.kv.memory.slot_map import SlotMap
from farspan.sizes import format_bytes

logger = logging.getLogger("sglang.farspan")

_ROUNDS = 16
# Tokens secured ahead of the step that needs them, so that decoding grows a segment at a time and not under its feet.
_AHEAD = 1024
# Seconds between two looks at what may go, and between two lines of the log.
_TICK_S, _LOG_S = 0.25, 5.0


class SecuredMemory:
    """Secures tokens of the KV pools. Belongs to the scheduler's thread.

    Args:
        memory: What the pools are made of.
        allocator: SGLang's, elastic.
        window_share: Cached window tokens that may be grown for, a full-attention token; beyond it what is cached there
            makes room first.
        evict: Evicts (tree, full tokens, window tokens) from SGLang's prefix cache.
    """

    def __init__(
        self,
        memory: DeviceMemory,
        allocator: Any,
        window_share: float,
        evict: Callable[[Any, int, int], None],
    ) -> None:
        self.memory = memory
        self.allocator = allocator
        self._ledgers = ledgers(allocator)
        self._full, *rest = self._ledgers
        self._window: SlotLedger | None = rest[0] if rest else None
        self._map: SlotMap | None = getattr(allocator, "slot_map", None)
        self._share = window_share
        self._evict = evict
        self._next_tick = self._next_log = float("-inf")
        self._logged = -1
        self._watches = False
        self._ranks = memory.ranks
        self._delayed: DelayedEvictor | None = None
        if self._ranks is not None:
            for one in self._ledgers:
                one.pages.agree_with(self._ranks.least)

    def secure(self, tree: Any, full: int, window: int) -> None:
        """Have so many tokens available or evictable, with memory, as far as there is any.

        Args:
            tree: SGLang's prefix cache, in which what is needed is locked.
            full: Tokens of full attention, or of the only pool.
            window: Tokens of the window pool.
        """
        if self._window is None:
            self._full.secure(full)
            return
        self._full.pages.keep(full)
        self._release_agreed()
        self._window.secure(max(0, window - int(tree.swa_evictable_size())))
        self._full.secure(full)
        if self._window.available < window and self._may_grow_window(window):
            self._window.secure(window)
        self._window.pages.keep(min(window, self._window.available))
        for step in range(_ROUNDS):
            if not self._exchange(tree, full, window, 2**step):
                return

    def decode(self, tree: Any, tokens: int) -> None:
        """Have memory for the next tokens of all running requests."""
        if all(one.available >= tokens for one in self._ledgers):
            return
        self.secure(tree, tokens + _AHEAD, tokens + _AHEAD)

    def make_room(self, tree: Any, segments: int) -> None:
        """Have room for so many segments beside the pools, at the cost of what is cached."""
        self.relax()
        pages = self._full.pages
        for step in range(_ROUNDS):
            cached, _ = self._cached(tree)
            if self._room() >= segments or not cached:
                return
            self._evict(tree, min(cached, 2**step * pages.pages_per_segment), 0)
            self._settle_all()

    def watch(self, tree: Any) -> None:
        """Let go of what `tree` has cached, when the memory must shrink and nothing else is empty."""
        if self._watches:
            return
        self._watches = True

        def evict(full: int, window: int) -> None:
            self._evict(tree, full, window)
            self._settle_all()

        full, *rest = map(_token_bytes, self._ledgers)
        cached = CachedPrefixes(
            self.memory.segments.segment_bytes,
            (full, rest[0] if rest else 0.0),
            lambda: self._cached(tree),
            evict,
        )
        if self._ranks is not None:
            self._delayed = DelayedEvictor(cached)
        self.memory.segments.register_evictor(self._delayed or cached)

    def relax(self, runs: bool = True) -> None:
        """Keep memory only for a few tokens, or for none when nothing runs: nothing waits to be admitted."""
        for one in self._ledgers:
            one.pages.keep(_AHEAD if runs else 0)

    def begin_iteration(self, busy: bool, admits: bool) -> None:
        """Bring what ranks share up to date; nothing to do when there is one.

        Args:
            busy: There is a request.
            admits: One of them waits, or is half computed.
        """
        if self._ranks is None:
            return
        for one in self._ledgers:
            one.begin_turn()
        looks = self._ranks.time_to_look(busy)
        if looks and self._delayed is not None:
            self._delayed.evict_agreed(self._ranks)
        if looks or admits:
            self._release_agreed()

    def tick(self, idle: bool) -> None:
        """Let go of what nobody used for the quiet time; call it often. With `idle` the log says what is left."""
        now = self.memory.segments.clock()
        if idle and now >= self._next_log and self._mapped() != self._logged:
            self._next_log, self._logged = now + _LOG_S, self._mapped()
            logger.info(self.describe())
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK_S
        for one in self._ledgers:
            one.settle()
            one.pages.tick()
        if self._map is not None:
            self._map.uncover(self._full.pages.backed_stop)
            self._map.tick()
        self.memory.segments.tick()
        self.memory.note()

    def describe(self) -> str:
        """Return a line for the log: tokens in use, the memory they have, and the least they could have."""
        parts = []
        for name, one in zip(("full", "window"), self._ledgers, strict=False):
            pages = one.pages
            least = -(-pages.used // pages.pages_per_segment) * pages.segment_layer_bytes
            parts.append(
                f"{name} {pages.used - 1:,} of {one.size:,} tokens, {format_bytes(pages.mapped_bytes)} "
                f"mapped ({pages.mapped_bytes}), {format_bytes(least)} packed ({least})"
            )
        held = self.memory.segments.statistics()
        return (
            f"farspan: KV cache: {'; '.join(parts)}; {format_bytes(held.created * held.segment_bytes)} held of "
            f"{format_bytes(held.cap * held.segment_bytes)}"
        )

    # --- inside --------------------------------------------------------------------------------------------------

    def _may_grow_window(self, window: int) -> bool:
        assert self._window is not None
        grown = self._window.pages.mapped_pages + window - self._window.available
        return grown <= self._share * self._full.pages.mapped_pages

    def _cached(self, tree: Any) -> tuple[int, int]:
        """Return the tokens of full attention, or of the only pool, and of the window that may be evicted."""
        if self._window is None:
            return int(tree.evictable_size()), 0
        return int(tree.full_evictable_size()), int(tree.swa_evictable_size())

    def _exchange(self, tree: Any, full: int, window: int, segments: int) -> bool:
        """Evict tokens of one kind for those the other lacks; return whether it is worth another look."""
        assert self._window is not None
        full_cached, window_cached = self._cached(tree)
        full_short = full - self._full.available - full_cached
        window_short = window - self._window.available - window_cached
        if full_short > 0 and window_short <= 0 and window_cached:
            count = self._tokens_for(full_short, self._full, self._window, segments)
            self._evict(tree, 0, min(count, window_cached))
        elif window_short > 0 and full_short <= 0 and full_cached:
            count = self._tokens_for(window_short, self._window, self._full, segments)
            self._evict(tree, min(count, full_cached), 0)
            self._full.pages.keep(min(full, self._full.available))
        else:
            return False
        self._settle_all()
        self._window.secure(max(0, window - int(tree.swa_evictable_size())))
        self._full.secure(full)
        return True

    def _settle_all(self) -> None:
        """Wait until what was evicted can move: the pass that runs may still read it."""
        self.memory.wait()
        for one in self._ledgers:
            one.settle(wait=True)
        self._release_agreed()

    def _release_agreed(self) -> None:
        """Take what is empty out of use, where a pool does not because its own device is short of memory."""
        if self._ranks is not None:
            for one in self._ledgers:
                one.settle()
                one.pages.release_empty()

    def _room(self) -> int:
        """Return the segments that could be had, on all ranks."""
        room = self.memory.segments.room()
        return room if self._ranks is None else self._ranks.least(room)

    @staticmethod
    def _tokens_for(short: int, needs: SlotLedger, has: SlotLedger, segments: int) -> int:
        """Return tokens of `has` that have the memory of `short` tokens of `needs`, in whole segments at least."""
        count = int(short * _token_bytes(needs) / _token_bytes(has)) + 1
        return max(count, segments * has.pages.pages_per_segment)

    def _mapped(self) -> int:
        return sum(one.pages.mapped_bytes for one in self._ledgers)


def _token_bytes(ledger: SlotLedger) -> float:
    """Return the bytes of a token in all layers of a pool."""
    return ledger.pages.segment_layer_bytes / ledger.pages.pages_per_segment
