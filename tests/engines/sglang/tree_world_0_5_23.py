"""The small server of `tree_world.py` as SGLang 0.5.23 has it: checkpoints, and strict frees."""

from __future__ import annotations

from typing import Any

import torch

from tree_world import Request, World


class Request23(Request):
    """The fields of SGLang 0.5.23's `Req` that its cache, its allocation and its release touch."""

    def __init__(self, prompt: list[int], answer: int) -> None:
        from sglang.srt.managers.schedule_batch import ReqKvInfo

        super().__init__(prompt, answer)
        self.kv = ReqKvInfo()
        self.rid = "0"
        self.session_id = None
        self.lock: Any = None
        self.prefix_len = 0
        self.extend_end = 0
        self.cache_salt: str | None = None
        self.kv_rotation_base = None
        self.swa_branching_seqlen: int | None = None
        self.mamba_branching_seqlen = None
        self.skip_radix_cache_insert = False
        self.finished_len = None
        self.ended = False

    def _compute_max_prefix_len(self, length: int) -> int:
        return length - 1

    def owned_kv_len(self) -> int:
        return int(self.kv.kv_committed_len)

    def finished(self) -> bool:
        return self.ended

    def refresh_fill_ids(self) -> None:
        known = len(self.full_untruncated_fill_ids) - len(self.origin_input_ids)
        self.full_untruncated_fill_ids.extend(self.output_ids[known:])

    def get_fill_ids(self) -> Any:
        return self.full_untruncated_fill_ids[: self.extend_end]


class World23(World):
    """See `World`."""

    def build(self, kind: str) -> Any:
        params = self.params()
        if kind == "farspan":
            from farspan.integrations.sglang.prefix_tree.cache_0_5_23 import CacheMethods23
            from farspan.integrations.sglang.prefix_tree.linear_cache import cache_class

            return cache_class(CacheMethods23)(params)
        from sglang.srt.mem_cache.unified_cache.components import ComponentType
        from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

        windows = (ComponentType.SWA,) if self.window else ()
        params.tree_components = (ComponentType.FULL, *windows)
        params.tree_core_backend = "python"
        return UnifiedRadixCache(params)

    def row(self, one: Any) -> int:
        return int(one.kv.req_pool_idx)

    def protected(self, one: Any) -> int:
        return int(one.kv.cache_protected_len)

    def evicted(self, one: Any) -> int:
        from sglang.srt.mem_cache.unified_cache.component_type import ComponentType

        return int(one.kv.get_evicted_seqlen(ComponentType.SWA))

    def admit(self, name: int, prompt: list[int], answer: int, extra_key: str | None) -> int | None:
        one = Request23(prompt, answer)
        one.extra_key = extra_key
        self.common.match_kv_cache(
            one, self.cache, one.full_untruncated_fill_ids, max_prefix_len=len(prompt) - 1
        )
        one.lock = self.cache.lock(one.last_node)
        kept = self.room()
        if kept[0] < len(prompt) - one.prefix_len + answer or (
            self.window and kept[1] < 3 * self.window + 400
        ):
            self.cache.unlock(one.lock)
            return None
        one.hit = one.prefix_len
        one.kv.cache_protected_len = one.hit
        prefix = self.cache.prefix_device_indices(one)
        one.kv.req_pool_idx = self.rows.alloc_rows(1)[0]
        one.kv.kv_allocated_len = one.kv.kv_committed_len = one.hit
        self.rows.req_to_token[self.row(one), : one.hit] = prefix.to(torch.int32)
        self.running[name] = one
        self.hits += one.hit
        return one.hit

    def prefill(self, name: int, chunk: int) -> bool:
        one: Any = self.running[name]
        start, whole = one.prefix_len, len(one.full_untruncated_fill_ids)
        stop = min(start + chunk, whole)
        one.extend_end = stop
        if start:
            self.read(one, start)
        self._write(one, start, stop)
        self.read(one, stop)
        one.kv.kv_allocated_len = one.kv.kv_committed_len = stop
        self.common.checkpoint_kv_cache(one, self.cache)
        assert one.prefix_len == stop
        self.read(one, stop)
        return stop == whole

    def decode(self, name: int, token: int, early: int) -> None:
        one: Any = self.running[name]
        one.output_ids.append(token)
        stop = len(one.origin_input_ids) + len(one.output_ids)
        self._write(one, stop - 1, stop)
        one.kv.kv_allocated_len = one.kv.kv_committed_len = stop
        if self.window and stop % early == 0:
            self.allocator.free_group_begin()
            self.cache.evict_sliding_windows(one, stop - 1)
            self.allocator.free_group_end()
        self.read(one, stop)

    def release_window(self, name: int) -> None:
        one: Any = self.running[name]
        if len(one.output_ids) > (self.window or 0):
            self.cache.release_swa_prefix_lock(one)

    def finish(self, name: int, insert: bool) -> None:
        one: Any = self.running.pop(name)
        one.ended = True
        if one.kv.is_kv_released:  # it was aborted before it had anything: SGLang gives it no row
            self.cache.unlock(one.lock)
            self.rows.free(one)
            return
        self.allocator.free_group_begin()
        self.common.release_kv_cache(one, self.cache, checkpoint=insert)
        self.allocator.free_group_end()
        assert one.kv.is_kv_released
