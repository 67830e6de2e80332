"""Memory for what SGLang's scheduler is about to admit, before it admits it, and for what it has admitted.

Once a request is admitted an allocation that fails ends the server. So what SGLang asks before it admits, how many
tokens are available, is answered with tokens that have memory; and before it asks, memory is secured for what it is
about to ask for: growth first, then what the other kind of layers has cached, and otherwise the request waits. What
admitted requests may still need is promised to them: neither the other pool nor a neighbour is given it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from farspan.integrations.sglang.device_memory import DeviceMemory
from farspan.integrations.sglang.kv_allocators import ledgers
from farspan.integrations.sglang.prefill_needs import Needs
from farspan.integrations.sglang.rank_agreement import DelayedEvictor
from farspan.integrations.sglang.shared_budget import CachedPrefixes
from farspan.integrations.sglang.slot_ledger import SlotLedger
from farspan.kv.memory.backing import MOST_UNMAPPED
from farspan.kv.memory.slot_map import SlotMap
from farspan.sizes import format_bytes

logger = logging.getLogger("sglang.farspan")

_ROUNDS = 16
_NOTHING = Needs(0, 0)
# Seconds a step may wait for what neighbours have idle before SGLang retracts, and until the next such wait.
_LEND_S, _LEND_AGAIN_S, _LOOK_S = 0.3, 1.0, 0.005
# Steps until what was asked for in vain is asked for again: what would spare the cache, and what would be grown ahead.
_SPARED = 8
# Seconds between two looks at what may go, and between two lines of the log.
_TICK_S, _LOG_S = 0.25, 5.0
# Segments of a pool that go at one look while requests run, some 4 ms of their time.
_FEW = 128


class SecuredMemory:
    """Secures tokens of the KV pools. Belongs to the scheduler's thread.

    Args:
        memory: What the pools are made of.
        allocator: SGLang's, elastic.
        window_share: Cached window tokens that may be grown for, a full-attention token; beyond it what is cached there
            and of no use any more makes room first.
        evict: Evicts (tree, full tokens, window tokens) from SGLang's prefix cache.

    Attributes:
        chunk_waits: The prompt that is half computed got less than a whole chunk in this round of admission: nobody
            else may be admitted, because SGLang takes what it admits then for a part of that prompt.
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
        self._watches = self._busy = False
        self._promised = _NOTHING
        self._next_wait = float("-inf")
        self._spared = 0  # steps of decoding until `most` is asked for again
        self._ahead = 0  # calls until it is grown ahead again
        self._used = [one.used for one in self._ledgers]
        self.chunk_waits = False
        self._ranks = memory.ranks
        self._delayed: DelayedEvictor | None = None
        if self._ranks is not None:
            for one in self._ledgers:
                one.pages.agree_with(self._ranks.least)

    def promise(self, needs: Needs, waits: bool) -> None:
        """Keep memory for what admitted requests may still need, as far as there is any.

        The rest may go, but not while somebody `waits` and there is nobody who could be given it: what is gathered
        for a request piece by piece stays until it is enough.
        """
        self._promised = needs
        if self.memory.segments.budget is not None or not waits:
            self.keep()

    def let_wait(self, beside: Needs) -> None:
        """Keep memory for what was admitted now; who waits for more keeps none from neighbours."""
        if self.memory.segments.budget is not None:
            self.keep(beside)

    def keep(self, beside: Needs = _NOTHING) -> None:
        """Keep memory for what is promised, or for `beside` where that is more, and for nothing else."""
        for one, promised, other in zip(self._ledgers, self._promised, beside, strict=False):
            one.keep(max(promised, other))

    def secure_beside(self, tree: Any, needs: Needs) -> None:
        """See `secure`; window tokens of running requests, which SGLang does not count, come on top."""
        self.secure(tree, needs.full, needs.window + self._promised.window)

    def secure(self, tree: Any, full: int, window: int) -> None:
        """Have so many tokens available or evictable, with memory, as far as there is any; what is promised at least.

        Args:
            tree: SGLang's prefix cache, in which what is needed is locked.
            full: Tokens of full attention, or of the only pool.
            window: Tokens of the window pool.
        """
        full, window = max(full, self._promised.full), max(window, self._promised.window)
        if self._window is None:
            self._full.secure(full)
            return
        self._full.keep(full)
        self._release_agreed()
        self._window.secure(max(0, window - int(tree.swa_evictable_size())))
        self._full.secure(full)
        if self._window.available < window and self._may_grow_window(tree, window):
            self._window.secure(window)
        self._window.keep(min(window, self._window.available))
        for step in range(_ROUNDS):
            if not self._exchange(tree, full, window, 2**step):
                return

    def decode(self, tree: Any, tokens: int, most: int) -> None:
        """Have memory for the next tokens of all running requests.

        The last means before SGLang retracts a request: what is promised for later steps, and what neighbours have
        idle and are about to give back.

        Args:
            tree: SGLang's prefix cache.
            tokens: What SGLang retracts for, whole pages of them.
            most: A page for every request: where fewer are available SGLang evicts what is cached before it counts.
        """
        if all(one.available >= most for one in self._ledgers):
            return
        self._spared = max(0, self._spared - 1)
        if self._spared and all(one.available >= tokens for one in self._ledgers):
            return
        self.secure(tree, most, most)
        if most > tokens and any(one.available < most for one in self._ledgers):
            self._spared = _SPARED
        if not self._enough(tree, tokens):
            self._promised = _NOTHING
            self.secure(tree, tokens, tokens)
            self._wait_for_neighbours(tree, tokens)

    def free_ahead(self, tree: Any, tokens: int) -> None:
        """Have so many tokens available, at the cost of what is cached, as far as that goes.

        What the next pass takes is then back from the GPU when it is scheduled. Evicted only there, it would be read
        behind the pass that runs, because SGLang orders its scheduler's stream behind that.
        """
        short = (max(0, tokens - one.available) for one in self._ledgers)
        full, *window = map(min, short, self._cached(tree))
        if full or any(window):
            self._evict(tree, full, window[0] if window else 0)
            # It was counted on where it was cached, and stays so: neither the other pool nor a neighbour is given it.
            for one in self._ledgers:
                one.keep(max(one.kept, min(tokens, one.available)))

    def grow_ahead(self) -> None:
        """Have a segment more than is in use ready, of every pool; call it when nobody is about to be admitted.

        The device works meanwhile, or there is no request: who comes next does not wait for memory to be mapped. What
        nobody uses goes after the quiet time.
        """
        used = [one.used for one in self._ledgers]
        self._ahead = max(0, self._ahead - 1)
        if used == self._used or self._ahead:
            return
        self._used = used
        for one in self._ledgers:
            wanted = one.used and one.available < one.segment_tokens and one.may_grow
            if wanted and not one.pages.grow_ahead(self._unused()):
                self._ahead = _SPARED

    def room(self, tree: Any) -> int:
        """Return the tokens of full attention, or of the only pool, that are available or evictable."""
        return self._full.available + self._cached(tree)[0]

    def can_hold(self, tokens: int) -> bool:
        """Return whether a request of so many tokens fits the pool when nobody else has any."""
        return tokens <= self._full.size

    def make_room(self, tree: Any, segments: int) -> None:
        """Have room for so many segments beside the pools, at the cost of what is cached."""
        self.keep()
        for step in range(_ROUNDS):
            cached, _ = self._cached(tree)
            if self._room() >= segments or not cached:
                return
            self._evict(tree, min(cached, 2**step * self._full.segment_tokens), 0)
            self._settle_all()

    def watch(self, tree: Any) -> None:
        """Let go of what `tree` has cached, when the memory must shrink and nothing else is empty."""
        if self._watches:
            return
        self._watches = True

        def evict(full: int, window: int) -> None:
            self._evict(tree, full, window)
            self._settle_all()

        full, *rest = (one.token_bytes for one in self._ledgers)
        cached = CachedPrefixes(
            self.memory.segments.segment_bytes,
            (full, rest[0] if rest else 0.0),
            lambda: self._lendable(tree),
            evict,
        )
        if self._ranks is not None:
            self._delayed = DelayedEvictor(cached)
        self.memory.segments.register_evictor(self._delayed or cached)

    def begin_iteration(self, busy: bool, admits: bool) -> None:
        """Note whether requests run, and bring what ranks share up to date.

        Args:
            busy: There is a request.
            admits: One of them waits, or is half computed.
        """
        self._busy = busy
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
        """Let go of what nobody used for the quiet time, little at once while requests run; call it often.

        With `idle` the log says what is left.
        """
        now = self.memory.segments.clock()
        if idle and now >= self._next_log and self._mapped() != self._logged:
            self._next_log, self._logged = now + _LOG_S, self._mapped()
            logger.info(self.describe())
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK_S
        most = _FEW if self._busy else MOST_UNMAPPED
        for one in self._ledgers:
            one.settle()
            one.pages.tick(most)
        if self._map is not None:
            self._map.uncover(self._full.mapped_stop)
            self._map.tick()
        self.memory.segments.tick(most)
        self.memory.note()

    def describe(self) -> str:
        """Return a line for the log: tokens in use, the memory they have, and the least they could have."""
        parts = []
        for name, one in zip(("full", "window"), self._ledgers, strict=False):
            pages = one.pages
            least = -(-pages.used // pages.pages_per_segment) * pages.segment_layer_bytes
            parts.append(
                f"{name} {one.used:,} of {one.size:,} tokens, {format_bytes(pages.mapped_bytes)} "
                f"mapped ({pages.mapped_bytes}), {format_bytes(least)} packed ({least})"
            )
        held = self.memory.segments.statistics()
        return (
            f"farspan: KV cache: {'; '.join(parts)}; {format_bytes(held.created * held.segment_bytes)} held of "
            f"{format_bytes(held.cap * held.segment_bytes)}"
        )

    # --- inside --------------------------------------------------------------------------------------------------

    def _may_grow_window(self, tree: Any, window: int) -> bool:
        """Return whether the window pool grows rather than that what it has cached goes.

        Beyond its share it does for what is of use, with memory nobody has. SGLang's own tree does not say what is.
        """
        assert self._window is not None
        short = window - self._window.available
        if self._window.mapped + short <= self._share * self._full.mapped:
            return True
        if getattr(tree, "left_behind", True):
            return False
        cost = -(-short // self._window.segment_tokens) * self._window.pages.segment_layer_bytes
        return cost <= self._unused() * self.memory.segments.segment_bytes

    def _unused(self) -> int:
        """Return the segments that nobody has, on all ranks."""
        unused = self.memory.segments.statistics().unused
        return unused if self._ranks is None else self._ranks.least(unused)

    def _cached(self, tree: Any) -> tuple[int, int]:
        """Return the tokens of full attention, or of the only pool, and of the window that may be evicted."""
        if self._window is None:
            return int(tree.evictable_size()), 0
        return int(tree.full_evictable_size()), int(tree.swa_evictable_size())

    def _lendable(self, tree: Any) -> tuple[int, int]:
        """Return what is cached beyond that which admitted requests count on."""
        full, window = (
            max(0, cached - max(0, promised - one.available))
            for cached, promised, one in zip(
                self._cached(tree), self._promised, (self._full, self._window or self._full), strict=True
            )
        )
        return full, window

    def _enough(self, tree: Any, tokens: int) -> bool:
        """Return whether every pool has so many tokens available or evictable."""
        pairs = zip(self._ledgers, self._cached(tree), strict=False)
        return all(one.available + cached >= tokens for one, cached in pairs)

    def _wait_for_neighbours(self, tree: Any, tokens: int) -> None:
        """Wait a moment for what members of the same budget are about to give back."""
        segments, now = self.memory.segments, time.monotonic()
        if segments.budget is None or self._ranks is not None or now < self._next_wait:
            return
        while not self._enough(tree, tokens) and segments.limit_segments() > segments.statistics().limit:
            if time.monotonic() > now + _LEND_S:
                self._next_wait = time.monotonic() + _LEND_AGAIN_S
                return
            time.sleep(_LOOK_S)
            self.secure(tree, tokens, tokens)

    def _exchange(self, tree: Any, full: int, window: int, segments: int) -> bool:
        """Evict tokens of one kind for those the other lacks; return whether it is worth another look.

        What the other has cached is what it lacks too, where that was used later than what would be evicted for it.
        """
        assert self._window is not None
        full_cached, window_cached = self._cached(tree)
        older = tree.older_kind() if hasattr(tree, "older_kind") else None
        full_short = full - self._full.available - (0 if older == "window" else full_cached)
        window_short = window - self._window.available - (0 if older == "full" else window_cached)
        if full_short > 0 and window_short <= 0 and window_cached:
            count = self._tokens_for(full_short, self._full, self._window, segments)
            self._evict(tree, 0, min(count, window_cached))
        elif window_short > 0 and full_short <= 0 and full_cached:
            # A prefix goes with what window layers have of it, which may be enough.
            count = self._tokens_for(window_short, self._window, self._full, segments)
            least = max(window_short, segments * self._full.segment_tokens)
            self._evict(tree, min(least if older == "full" else count, full_cached), 0)
            self._full.keep(min(full, self._full.available))
        else:
            return False
        self._settle_all()
        self._window.secure(window if older == "full" else max(0, window - int(tree.swa_evictable_size())))
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
        count = int(short * needs.token_bytes / has.token_bytes) + 1
        return max(count, segments * has.segment_tokens)

    def _mapped(self) -> int:
        return sum(one.pages.mapped_bytes for one in self._ledgers)
