"""The prefix cache of SGLang 0.5.23 on the linear tree."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from farspan.errors import KVError
from farspan.integrations.sglang.prefix_tree.allocator_slots import StrictAllocatorSlots
from farspan.integrations.sglang.prefix_tree.linear_cache import LinearCache
from farspan.integrations.sglang.prefix_tree.linear_tree import FoundPrefix
from farspan.integrations.sglang.prefix_tree.prefix_rows import token_array
from farspan.integrations.sglang.prefix_tree.stretch import Place

_SRT = "sglang.srt"


class CacheMethods23(LinearCache):
    """What SGLang 0.5.23 calls; `last_node` of a request is a `Place`, and its `lock` holds one.

    Args:
        params: SGLang's `CacheInitParams`.
    """

    owner_class = StrictAllocatorSlots

    def match_prefix(self, params: Any) -> Any:
        """Return the longest prefix of a key that can be used; its slots are read when rows are allocated."""
        found = self._find(params.key)
        place = found.place
        return self.interface.MatchResult(
            device_prefix_len=place.position,
            last_device_node=place,
            last_host_node=place,
            best_match_node=place,
            cache_protected_len=place.position,
            full_kv_hit_length=found.stored,
            swa_branching_seqlen=found.stored if found.stored > place.position else None,
        )

    def touch_prefix(self, key: Any) -> None:
        """Make a prefix that a waiting request will use the most recently used."""
        self._find(key)

    def path_device_indices(self, node: Place) -> torch.Tensor:
        """Return the slots of a prefix."""
        return self._slots_of(self.tree.prefix(node))

    def checkpoint(self, req: Any, *, up_to: int, **_hints: Any) -> None:
        """Take what a request has computed into the tree, make its row the tree's, and move its lock to the end.

        Where it leaves what others share, window layers had nothing: the tree is given that end first, so that it keeps
        a window for those who follow, and the rest at the next checkpoint.
        """
        branch = req.swa_branching_seqlen
        if branch is None or not req.kv.cache_protected_len < branch <= up_to:
            self._checkpoint(req, up_to)
            return
        self._checkpoint(req, branch)
        req.swa_branching_seqlen = None
        self._free_out_of_window(req, up_to)

    def _checkpoint(self, req: Any, up_to: int) -> None:
        row, start = req.kv, req.kv.cache_protected_len
        window = import_module(f"{_SRT}.mem_cache.unified_cache.component_type").ComponentType.SWA
        self._free_out_of_window(req, up_to)
        stop = up_to // self.page_size * self.page_size
        if stop <= start:
            return
        lock = req.lock
        if lock is None:
            raise KVError(f"a request without a lock goes on from {start} of its tokens")
        req.last_node = self._extend(
            req.last_node,
            start,
            token_array(req.full_untruncated_fill_ids)[start:stop],
            row.req_pool_idx,
            (req.extra_key, req.cache_salt),
            window_from=row.get_evicted_seqlen(window),
            window_locked=not lock.swa_released,
        )
        req.lock = self.interface.TreeLock(req.last_node, lock.receipt)
        row.cache_protected_len = stop
        row.cache_inserted_len = max(row.cache_inserted_len, stop)

    def inc_lock_ref(self, node: Place) -> Any:
        """Keep a prefix from eviction."""
        self.tree.lock(node)
        return self.interface.IncLockRefResult()

    def dec_lock_ref(self, node: Place, _params: Any = None) -> Any:
        """Undo `inc_lock_ref`."""
        self.tree.unlock(node)
        return self.interface.DecLockRefResult()

    def unlock(self, lock: Any) -> None:
        """Undo `lock`."""
        if lock is not None:
            self.tree.unlock(lock.node, window=not lock.swa_released)

    def release_swa_prefix_lock(self, req: Any) -> None:
        """Undo a request's lock as far as window layers go, once."""
        if req.lock is not None and not req.lock.swa_released:
            self.tree.unlock_window(req.lock.node)
            req.lock.swa_released = True

    def root_node_handle(self, **_namespace: Any) -> Place:
        """Return the place of nothing; which namespace follows is known when something does."""
        return self.root_node

    def _find(self, key: Any) -> FoundPrefix:
        return self._match(key, (key.extra_key, key.cache_salt))

    def _free_out_of_window(self, req: Any, stop: int) -> None:
        """Free what window layers need no more of a request's own tokens, where SGLang is set to do so this early."""
        early = import_module(f"{_SRT}.environ").envs.SGLANG_OPT_UNIFIED_CACHE_FREE_OUT_OF_WINDOW_SLOTS
        if self.tree.windows and early.get() and not req.finished():
            self.evict_sliding_windows(req, stop - 1)  # type: ignore[attr-defined]
