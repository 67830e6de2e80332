"""The parameters of everything in SGLang that the prefix tree calls, is called by, or returns, by version."""

from __future__ import annotations

_MEMORY = "sglang.srt.mem_cache"
_CACHE = f"{_MEMORY}.base_prefix_cache"
_FULL = f"{_MEMORY}.allocator.token:TokenToKVPoolAllocator"
_WINDOW = f"{_MEMORY}.allocator.swa:SWATokenToKVPoolAllocator"

TREE_SHAPES: dict[str, dict[str, str]] = {
    "0.5.16": {
        f"{_CACHE}:BasePrefixCache.match_prefix": "(self, params)",
        f"{_CACHE}:BasePrefixCache.cache_finished_req": "(self, req, is_insert, **kwargs)",
        f"{_CACHE}:BasePrefixCache.cache_unfinished_req": "(self, req, **kwargs)",
        f"{_CACHE}:BasePrefixCache.evict": "(self, params)",
        f"{_CACHE}:BasePrefixCache.inc_lock_ref": "(self, node)",
        f"{_CACHE}:BasePrefixCache.dec_lock_ref": "(self, node, params)",
        f"{_CACHE}:BasePrefixCache.update_eviction_metrics": "(self, num_evicted, start_time)",
        f"{_CACHE}:MatchPrefixParams": "(key, cow_mamba, req)",
        f"{_CACHE}:MatchResult": (
            "(device_indices, last_device_node, last_host_node, best_match_node, host_hit_length, "
            "swa_host_hit_length, mamba_host_hit_length, mamba_branching_seqlen, cache_protected_len)"
        ),
        f"{_CACHE}:EvictParams": "(num_tokens, swa_num_tokens, mamba_num)",
        f"{_CACHE}:EvictResult": "(num_tokens_evicted, swa_num_tokens_evicted, mamba_num_evicted)",
        f"{_CACHE}:IncLockRefResult": "(delta, swa_uuid_for_lock, swa_uuid_for_host_lock, skip_lock_node_ids)",
        f"{_CACHE}:zero_match_result": "(tree_cache, match_result)",
        f"{_MEMORY}.radix_cache:RadixKey": "(token_ids, extra_key, is_bigram, limit)",
        f"{_MEMORY}.common:maybe_cache_unfinished_req": "(req, tree_cache, **kwargs)",
        f"{_MEMORY}.common:release_kv_cache": "(req, tree_cache, is_insert)",
        f"{_MEMORY}.common:evict_from_tree_cache": "(tree_cache, num_tokens)",
        f"{_MEMORY}.common:free_swa_out_of_window_slots": (
            "(req, pre_len, *, sliding_window_size, page_size, req_to_token_pool, token_to_kv_pool_allocator, "
            "is_chunk_cache)"
        ),
        f"{_MEMORY}.memory_pool:ReqToTokenPool.write": "(self, indices, values)",
        f"{_FULL}.free": "(self, free_index)",
        f"{_WINDOW}.free": "(self, free_index)",
        f"{_WINDOW}.free_swa": "(self, free_index)",
        f"{_WINDOW}.set_full_to_swa_mapping": "(self, full_indices, swa_indices)",
        f"{_WINDOW}.translate_loc_from_full_to_swa": "(self, kv_indices)",
    },
    "0.5.23": {},
}
