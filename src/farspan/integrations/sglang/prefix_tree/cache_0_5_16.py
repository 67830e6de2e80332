"""The prefix cache of SGLang 0.5.16 on the linear tree."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from farspan.integrations.sglang.prefix_tree.linear_cache import LinearCache
from farspan.integrations.sglang.prefix_tree.prefix_rows import grown_prefix, token_array, tokens_between
from farspan.integrations.sglang.prefix_tree.stretch import Place

_MEMORY = "sglang.srt.mem_cache"


class CacheMethods16(LinearCache):
    """What SGLang 0.5.16 calls; `last_node` of a request is a `Place`.

    Args:
        params: SGLang's `CacheInitParams`.
    """

    def __init__(self, params: Any) -> None:
        self.no_finished_insert: bool = params.disable_finished_insert
        super().__init__(params)

    def match_prefix(self, params: Any) -> Any:
        """Return the longest prefix of a key that can be used."""
        hit = self._match(params.key, params.key.extra_key)
        return self.interface.MatchResult(
            device_indices=self._slots_of(hit.slots),
            last_device_node=hit.place,
            last_host_node=hit.place,
            best_match_node=hit.place,
        )

    def cache_unfinished_req(self, req: Any, **_hints: Any) -> None:
        """Take what a request has computed into the tree and let the request go on from there."""
        stop, start = req.extend_range.end, req.cache_protected_len
        self._free_out_of_window(req, stop)
        place = self._insert(req, token_array(req.full_untruncated_fill_ids)[start:stop])
        row = self.req_to_token_pool.req_to_token[req.req_pool_idx, start:stop]
        room = len(req.full_untruncated_fill_ids)
        req.prefix_indices = grown_prefix(place, req.prefix_indices, row, start, room)
        req.last_node = place
        req.cache_protected_len = place.position
        req.swa_uuid_for_lock = self._window_lock()
        req.swa_prefix_lock_released = False

    def cache_finished_req(self, req: Any, is_insert: bool = True, *, kv_len_to_handle: int) -> None:
        """Take what a request has computed into the tree, or free it, and end what it holds."""
        start, stop = req.cache_protected_len, kv_len_to_handle
        place, window = req.last_node, not req.swa_prefix_lock_released
        if is_insert and not self.no_finished_insert and stop > start:
            place = self._insert(req, tokens_between(req.origin_input_ids, req.output_ids, start, stop))
            start, window = place.position, True
        row = self.req_to_token_pool.req_to_token[req.req_pool_idx, start:stop]
        if len(row):
            self.token_to_kv_pool_allocator.free(row.to(torch.int64))
        if place is not None:
            self.tree.unlock(place, window=window)

    def inc_lock_ref(self, node: Place) -> Any:
        """Keep a prefix from eviction."""
        self.tree.lock(node)
        return self.interface.IncLockRefResult(swa_uuid_for_lock=self._window_lock())

    def dec_lock_ref(self, node: Place, _params: Any = None, skip_swa: bool = False) -> Any:
        """Undo `inc_lock_ref`."""
        self.tree.unlock(node, window=not skip_swa)
        return self.interface.DecLockRefResult()

    def dec_swa_lock_only(self, node: Place, _lock: int | None = None) -> None:
        """Undo it as far as window layers go."""
        self.tree.unlock_window(node)

    def _insert(self, req: Any, tokens: Any) -> Place:
        """Take a request's tokens from its place on into the tree and move its lock; return the place it has now."""
        return self._extend(
            req.last_node,
            req.cache_protected_len,
            tokens[: len(tokens) // self.page_size * self.page_size],
            req.req_pool_idx,
            req.extra_key,
            window_from=req.kv.swa_evicted_seqlen,
            window_locked=not req.swa_prefix_lock_released,
        )

    def _free_out_of_window(self, req: Any, stop: int) -> None:
        """Free what window layers need no more of a request's own tokens, where SGLang is set to do so this early."""
        early = import_module("sglang.srt.environ").envs.SGLANG_OPT_UNIFIED_CACHE_FREE_OUT_OF_WINDOW_SLOTS
        if self.tree.windows and early.get():
            import_module(f"{_MEMORY}.common").free_swa_out_of_window_slots(
                req,
                stop - 1,
                sliding_window_size=self.sliding_window_size,
                page_size=self.page_size,
                req_to_token_pool=self.req_to_token_pool,
                token_to_kv_pool_allocator=self.token_to_kv_pool_allocator,
            )

    def _window_lock(self) -> int | None:
        """Return what tells SGLang that a lock keeps a window, which it may give up early."""
        return 1 if self.tree.windows else None
