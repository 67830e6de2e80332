"""One server's memory in small: SGLang's own allocators and request rows with a prefix cache on top, and a ledger.

The ledger knows what each slot of each pool would hold: every token's KV depends on all tokens before it. So a slot
that is wrong, stale or given to two is seen as soon as a request would read it.
"""

from __future__ import annotations

import sys
from array import array
from types import SimpleNamespace as Values
from typing import Any

import torch

from oracle import HIDDEN
from page_kernels import install_page_kernels
from stubs import install

WIDTH = 6000
FACTOR, MODULUS = 1_000_003, (1 << 61) - 1


def start_sglang(folder: str) -> None:
    """Make SGLang importable, kernels and what is not installed being stand-ins."""
    sys.path.insert(0, folder)
    install("sglang", HIDDEN)


class Request:
    """The fields of SGLang's `Req` that its cache, its allocation and its release touch."""

    def __init__(self, prompt: list[int], answer: int) -> None:
        self.origin_input_ids = array("q", prompt)
        self.output_ids = array("q")
        self.full_untruncated_fill_ids = array("q", prompt)
        self.extend_range: Any = None
        self.answer = answer
        self.extra_key: str | None = None
        self.prefix_indices = torch.empty((0,), dtype=torch.int64)
        self.last_node: Any = None
        self.cache_protected_len = 0
        self.swa_uuid_for_lock: int | None = None
        self.swa_prefix_lock_released = False
        self.req_pool_idx: int | None = None
        self.kv: Any = None
        self.kv_committed_len = 0
        self.inflight_middle_chunks = 1
        self.mamba_pool_idx = None
        self.priority = 0
        self.session = None
        self.hit = 0
        self.hashes: list[int] = []

    def get_fill_ids(self) -> array[int]:
        return self.full_untruncated_fill_ids[: self.extend_range.end]

    def effective_kv_committed_len(self) -> int:
        return self.kv_committed_len


class World:
    """A cache of one kind over pools of its own.

    Args:
        kind: "sglang" or "farspan".
        sizes: Slots of the full pool and, with window layers, of theirs.
        window: Tokens of the window, None without.
    """

    def __init__(self, kind: str, sizes: tuple[int, int], window: int | None, page: int = 1) -> None:
        from sglang.srt.mem_cache import common
        from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator, TokenToKVPoolAllocator
        from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
        from sglang.srt.mem_cache.base_swa_memory_pool import BaseSWAKVPool
        from sglang.srt.mem_cache.memory_pool import ReqToTokenPool

        plain = Values(page_size=page, speculative_algorithm=None, strip_thinking_cache=False)
        for name in ("get_server_args", "get_spec", "get_serving"):
            setattr(common, name, lambda: plain)
        install_page_kernels()

        class Pool(BaseSWAKVPool):  # type: ignore[misc]
            def __init__(self) -> None:
                self.full_to_swa_index_mapping: Any = None

            def register_mapping(self, mapping: torch.Tensor) -> None:
                self.full_to_swa_index_mapping = mapping

            def translate_loc_from_full_to_swa(self, indices: torch.Tensor) -> torch.Tensor:
                return self.full_to_swa_index_mapping[indices]

        Pool.__abstractmethods__ = frozenset()
        self.common, self.window, self.page, self.sizes = common, window, page, sizes
        if window:
            self.allocator = SWATokenToKVPoolAllocator(
                sizes[0], sizes[1], page, torch.bfloat16, "cpu", Pool(), False
            )
        elif page == 1:
            self.allocator = TokenToKVPoolAllocator(sizes[0], torch.bfloat16, "cpu", None, False)
        else:
            self.allocator = PagedTokenToKVPoolAllocator(sizes[0], page, torch.bfloat16, "cpu", None, False)
        self.rows = ReqToTokenPool(64, WIDTH, "cpu", False)
        self.rows.req_to_token.zero_()
        self.full = torch.full((sizes[0] + page,), -1, dtype=torch.int64)
        self.windowed = torch.full((sizes[1] + page,), -1, dtype=torch.int64)
        self.cache = self.build(kind)
        self.running: dict[int, Any] = {}
        self.hits = 0

    def params(self) -> Any:
        from sglang.srt.mem_cache.cache_init_params import CacheInitParams

        return CacheInitParams(
            disable=False,
            req_to_token_pool=self.rows,
            token_to_kv_pool_allocator=self.allocator,
            page_size=self.page,
            sliding_window_size=self.window,
        )

    def build(self, kind: str) -> Any:
        return cache_of(kind, self.params())

    # What a scheduler does

    def admit(self, name: int, prompt: list[int], answer: int, extra_key: str | None) -> int | None:
        """Match and lock a request's prefix; return the hit, None (and nothing changed) where memory would not do."""
        from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
        from sglang.srt.mem_cache.radix_cache import RadixKey

        one = Request(prompt, answer)
        one.extra_key = extra_key
        key = RadixKey(one.full_untruncated_fill_ids, extra_key, limit=len(prompt) - 1)
        match = self.cache.match_prefix(MatchPrefixParams(key=key, req=one))
        one.prefix_indices, one.last_node = match.device_indices, match.last_device_node
        one.cache_protected_len = one.hit = len(match.device_indices)
        lock = self.cache.inc_lock_ref(one.last_node)
        kept = self.room()
        if kept[0] < len(prompt) - one.hit + answer or (self.window and kept[1] < 3 * self.window + 400):
            self.cache.dec_lock_ref(one.last_node, lock.to_dec_params())
            return None
        one.swa_uuid_for_lock = lock.swa_uuid_for_lock
        one.req_pool_idx = self.rows.alloc([one])[0]
        one.kv = Values(kv_allocated_len=one.hit, swa_evicted_seqlen=0)
        one.kv_committed_len = one.hit
        self.rows.req_to_token[one.req_pool_idx, : one.hit] = one.prefix_indices.to(torch.int32)
        self.running[name] = one
        self.hits += one.hit
        return one.hit

    def prefill(self, name: int, chunk: int) -> bool:
        """Compute the next chunk of a prompt; return whether it was the last."""
        one = self.running[name]
        start, whole = len(one.prefix_indices), len(one.full_untruncated_fill_ids)
        stop = min(start + chunk, whole)
        one.extend_range = Values(start=start, end=stop)
        if start:
            self.read(one, start)
        self._write(one, start, stop)
        self.read(one, stop)
        one.kv.kv_allocated_len = one.kv_committed_len = stop
        self.cache.cache_unfinished_req(one, chunked=stop < whole)
        assert len(one.prefix_indices) == stop
        row = self.rows.req_to_token[one.req_pool_idx, :stop]
        assert torch.equal(one.prefix_indices, row.to(torch.int64)), "the row and the request's prefix differ"
        return stop == whole

    def decode(self, name: int, token: int, early: int) -> None:
        """Compute one token of an answer; window layers give up what is `early` steps due."""
        one = self.running[name]
        one.output_ids.append(token)
        stop = len(one.origin_input_ids) + len(one.output_ids)
        self._write(one, stop - 1, stop)
        one.kv.kv_allocated_len = one.kv_committed_len = stop
        if self.window and stop % early == 0:
            self.common.free_swa_out_of_window_slots(
                one,
                stop - 1,
                sliding_window_size=self.window,
                page_size=self.page,
                req_to_token_pool=self.rows,
                token_to_kv_pool_allocator=self.allocator,
            )
        self.read(one, stop)

    def release_window(self, name: int) -> None:
        """Give up the lock on the prompt's window, as SGLang does when the answer is longer than a window."""
        one = self.running[name]
        due = len(one.output_ids) > (self.window or 0) and not one.swa_prefix_lock_released
        if due and one.swa_uuid_for_lock is not None:
            self.cache.dec_swa_lock_only(one.last_node, one.swa_uuid_for_lock)
            one.swa_prefix_lock_released = True

    def finish(self, name: int, insert: bool) -> None:
        one = self.running.pop(name)
        self.common.release_kv_cache(one, self.cache, is_insert=insert)
        assert one.kv is None

    # What must hold

    def check(self) -> None:
        """SGLang's identity of each pool, and the cache's own checks."""
        cache, running = self.cache, self.running.values()
        if self.window:
            self.cache.sanity_check()
            full = self.allocator.full_available_size() + cache.full_evictable_size()
            full += cache.full_protected_size()
            window = self.allocator.swa_available_size() + cache.swa_evictable_size()
            window += cache.swa_protected_size()
            for one in running:
                window += self.whole(one) - max(self.protected(one), self.evicted(one))
            assert window == self.sizes[1], f"window pool: {window} of {self.sizes[1]}"
        else:
            full = self.allocator.available_size() + cache.evictable_size() + cache.protected_size()
        full += sum(self.whole(one) - self.protected(one) for one in running)
        assert full == self.sizes[0], f"full pool: {full} of {self.sizes[0]}"

    def row(self, one: Any) -> int:
        return int(one.req_pool_idx)

    def protected(self, one: Any) -> int:
        return int(one.cache_protected_len)

    def evicted(self, one: Any) -> int:
        return int(one.kv.swa_evicted_seqlen)

    def whole(self, one: Any) -> int:
        """Tokens of a request's pages."""
        return int(-(-one.kv.kv_allocated_len // self.page) * self.page)

    def free(self) -> tuple[int, int]:
        """Slots free in each pool."""
        if self.window:
            return self.allocator.full_available_size(), self.allocator.swa_available_size()
        return self.allocator.available_size(), 0

    def room(self) -> tuple[int, int]:
        """Slots that are free or may become so, less what requests that run still need."""
        due = sum(
            len(one.full_untruncated_fill_ids) + one.answer - one.kv.kv_allocated_len + 2 * self.page
            for one in self.running.values()
        )
        free = self.free()
        if not self.window:
            return free[0] + self.cache.evictable_size() - due, 0
        window = free[1] + self.cache.swa_evictable_size() - len(self.running) * (self.window + 300)
        return free[0] + self.cache.full_evictable_size() - due, window

    def read(self, one: Any, stop: int) -> None:
        """Read what attention would at the last of `stop` tokens."""
        expected = hashes(one, stop)
        row = self.rows.req_to_token[self.row(one), :stop].to(torch.int64)
        assert torch.equal(self.full[row], expected), "a full layer would read another token's KV"
        if self.window:
            low = max(0, stop - self.window)
            place = self.allocator.translate_loc_from_full_to_swa(row[low:])
            assert bool((place > 0).all()), "a window layer would read what was freed"
            assert torch.equal(self.windowed[place], expected[low:]), "a window layer would read another's KV"

    def _write(self, one: Any, start: int, stop: int) -> None:
        """Allocate slots for tokens [start, stop), as SGLang does, and compute them."""
        self.common.evict_from_tree_cache(self.cache, stop - start + (self.page if self.page > 1 else 0))
        if self.page == 1:
            slots = self.allocator.alloc(stop - start)
        else:
            before = self.rows.req_to_token[self.row(one), start - 1] if start else -1
            lengths = [torch.tensor([each]) for each in (start, start, stop, stop, int(before))]
            slots = self.allocator.alloc_extend(*lengths, stop - start)
        assert slots is not None, "admitted and then out of memory"
        self.rows.write((self.row(one), slice(start, stop)), slots.to(torch.int32))
        computed = hashes(one, stop)[start:]
        self.full[slots] = computed
        if self.window:
            self.windowed[self.allocator.translate_loc_from_full_to_swa(slots)] = computed


def hashes(one: Any, stop: int) -> torch.Tensor:
    """For each of the first tokens, a number that stands for it and all before it."""
    value = one.hashes[-1] if one.hashes else hash(one.extra_key) % MODULUS if one.extra_key else 1
    border = len(one.origin_input_ids)
    for at in range(len(one.hashes), stop):
        token = one.origin_input_ids[at] if at < border else one.output_ids[at - border]
        value = (value * FACTOR + token + 7) % MODULUS
        one.hashes.append(value)
    return torch.tensor(one.hashes[:stop], dtype=torch.int64)


def cache_of(kind: str, params: Any) -> Any:
    """Return SGLang's prefix cache for pools, or farspan's."""
    if kind == "farspan":
        from farspan.integrations.sglang.prefix_tree.cache_0_5_16 import CacheMethods16
        from farspan.integrations.sglang.prefix_tree.linear_cache import cache_class

        return cache_class(CacheMethods16)(params)
    if params.sliding_window_size is None:
        from sglang.srt.mem_cache.radix_cache import RadixCache

        return RadixCache(params)
    from sglang.srt.mem_cache.unified_cache_components import ComponentType
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    params.tree_components = (ComponentType.FULL, ComponentType.SWA)
    return UnifiedRadixCache(params)
