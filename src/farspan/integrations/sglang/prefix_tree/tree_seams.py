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
        f"{_MEMORY}.cache_init_params:CacheInitParams": (
            "(disable, req_to_token_pool, token_to_kv_pool_allocator, page_size, is_eagle, "
            "tp_cache_group, attn_cp_cache_group, attn_tp_cache_group, pp_cache_group, eviction_policy, "
            "disable_finished_insert, enable_metrics, enable_kv_cache_events, enable_session_radix_cache, "
            "enable_mamba_extra_buffer, enable_mamba_extra_buffer_lazy, pp_rank, pp_size, attn_cp_rank, "
            "attn_cp_size, chunked_prefill_size, sliding_window_size, cache_ttl_seconds, tree_components, "
            "component_registry_override)"
        ),
        f"{_MEMORY}.registry:TreeCacheBuildContext": (
            "(server_args, params, is_hybrid_swa, is_hybrid_ssm, enable_hierarchical_cache, "
            "disable_radix_cache, effective_chunked_prefill_size, tp_worker, model_config, tp_size, "
            "tp_rank, tp_group, full_tokens_per_layer, is_dsa)"
        ),
        f"{_MEMORY}.memory_pool:ReqToTokenPool.write": "(self, indices, values)",
        f"{_FULL}.free": "(self, free_index)",
        f"{_WINDOW}.free": "(self, free_index)",
        f"{_WINDOW}.free_swa": "(self, free_index)",
        f"{_WINDOW}.set_full_to_swa_mapping": "(self, full_indices, swa_indices)",
        f"{_WINDOW}.translate_loc_from_full_to_swa": "(self, kv_indices)",
    },
    "0.5.23": {
        f"{_CACHE}:BasePrefixCache.match_prefix": "(self, params)",
        f"{_CACHE}:BasePrefixCache.touch_prefix": "(self, key)",
        f"{_CACHE}:BasePrefixCache.checkpoint": "(self, req, *, up_to, **kwargs)",
        f"{_CACHE}:BasePrefixCache.evict": "(self, params)",
        f"{_CACHE}:BasePrefixCache.evict_for_alloc": "(self, params, *, allocation_reclaim_satisfied)",
        f"{_CACHE}:BasePrefixCache.inc_lock_ref": "(self, node)",
        f"{_CACHE}:BasePrefixCache.dec_lock_ref": "(self, node, params)",
        f"{_CACHE}:BasePrefixCache.lock": "(self, node)",
        f"{_CACHE}:BasePrefixCache.unlock": "(self, lock)",
        f"{_CACHE}:BasePrefixCache.prefix_device_indices": "(self, req)",
        f"{_CACHE}:BasePrefixCache.path_device_indices": "(self, node)",
        f"{_CACHE}:BasePrefixCache.root_node_handle": "(self, extra_key)",
        f"{_CACHE}:BasePrefixCache.free_kv_row": "(self, kv, ranges)",
        f"{_CACHE}:BasePrefixCache.claim_kv_row": "(self, req)",
        f"{_CACHE}:BasePrefixCache.on_release": "(self, req, *, checkpointed)",
        f"{_CACHE}:BasePrefixCache.session_records": "(self)",
        f"{_CACHE}:BasePrefixCache.swa_transient_size": "(self)",
        f"{_CACHE}:BasePrefixCache.evict_sliding_windows": "(self, req, pre_len, *, eviction_interval)",
        f"{_CACHE}:BasePrefixCache.supports_prefix_sharing": "(self)",
        f"{_CACHE}:BasePrefixCache.update_eviction_metrics": "(self, num_evicted, start_time)",
        f"{_CACHE}:MatchPrefixParams": "(key, cow_mamba, req)",
        f"{_CACHE}:MatchResult": (
            "(device_prefix_len, last_device_node, last_host_node, best_match_node, host_hit_length, "
            "swa_host_hit_length, swa_branching_seqlen, mamba_host_hit_length, mamba_branching_seqlen, "
            "cache_protected_len, full_kv_hit_length, cache_actions, last_visited_node_id, "
            "full_device_match_len)"
        ),
        f"{_CACHE}:EvictParams": "(num_tokens, swa_num_tokens, mamba_num)",
        f"{_CACHE}:EvictResult": "(num_tokens_evicted, swa_num_tokens_evicted, mamba_num_evicted)",
        f"{_CACHE}:IncLockRefResult": (
            "(delta, node_id, skipped_lock_components, component_lock_uuids, component_host_lock_uuids)"
        ),
        f"{_CACHE}:TreeLock": "(node, receipt, swa_released)",
        f"{_CACHE}:zero_match_result": "(tree_cache, match_result, extra_key)",
        f"{_MEMORY}.radix_cache:RadixKey": "(token_ids, extra_key, is_bigram, limit, cache_salt)",
        f"{_MEMORY}.common:match_kv_cache": "(req, tree_cache, token_ids, *, cow_mamba, max_prefix_len)",
        f"{_MEMORY}.common:checkpoint_kv_cache": "(req, tree_cache)",
        f"{_MEMORY}.common:release_kv_cache": "(req, tree_cache, *, checkpoint)",
        f"{_MEMORY}.common:evict_from_tree_cache": "(tree_cache, num_tokens)",
        f"{_MEMORY}.common:free_swa_out_of_window_slots": (
            "(req, pre_len, *, sliding_window_size, page_size, req_to_token_pool, "
            "token_to_kv_pool_allocator, supports_prefix_sharing, retain_floor, component_type, "
            "free_segment, eviction_interval)"
        ),
        f"{_MEMORY}.common:free_kv_row_segments": "(allocator, segments, *, swa_evicted_seqlen, swa_dead_lo)",
        f"{_MEMORY}.memory_pool:ReqToTokenPool.write": "(self, indices, values)",
        f"{_MEMORY}.cache_init_params:CacheInitParams": (
            "(disable, req_to_token_pool, token_to_kv_pool_allocator, page_size, is_eagle, "
            "tp_cache_group, attn_cp_cache_group, attn_tp_cache_group, pp_cache_group, eviction_policy, "
            "eviction_policy_config, enable_metrics, enable_kv_cache_events, dynamo_kv_event_format, "
            "kv_event_lora_names, enable_session_radix_cache, enable_mamba_extra_buffer, "
            "enable_mamba_extra_buffer_lazy, pp_rank, pp_size, attn_cp_rank, attn_cp_size, "
            "chunked_prefill_size, sliding_window_size, swa_gates_prefix_match, "
            "decoder_swa_bounded_replay, draft_swa_window, tree_components, component_registry_override, "
            "mtp_draft_device_pools, sidecar_draft_device_pools, mtp_draft_mamba_pools, *, "
            "tree_core_backend)"
        ),
        f"{_MEMORY}.registry:TreeCacheBuildContext": (
            "(server_args, params, is_hybrid_swa, is_hybrid_ssm, enable_hierarchical_cache, "
            "disable_radix_cache, tp_worker, model_config, tp_size, tp_rank, tp_group, "
            "full_tokens_per_layer, is_dsa)"
        ),
        f"{_FULL}.free": "(self, free_index)",
        f"{_WINDOW}.free": "(self, free_index)",
        f"{_WINDOW}.free_full": "(self, free_index)",
        f"{_WINDOW}.free_swa": "(self, free_index)",
        f"{_WINDOW}.set_full_to_swa_mapping": "(self, full_indices, swa_indices)",
        f"{_WINDOW}.clear_full_to_swa_mapping": "(self, full_indices)",
        f"{_WINDOW}.translate_loc_from_full_to_swa": "(self, kv_indices)",
    },
}
