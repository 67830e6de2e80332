"""The shape of what elastic KV pools touch in SGLang, by version: `module:attribute` -> its parameters."""

from __future__ import annotations

_MEMORY = "sglang.srt.mem_cache"
_CONFIGURATOR = f"{_MEMORY}.kv_cache_configurator:KVCacheConfigurator"
_POOL = f"{_MEMORY}.memory_pool:MHATokenToKVPool"
_PLAIN = f"{_MEMORY}.allocator.token:TokenToKVPoolAllocator"
_PAGED = f"{_MEMORY}.allocator.paged:PagedTokenToKVPoolAllocator"
_PAIRS = f"{_MEMORY}.allocator.swa:SWATokenToKVPoolAllocator"
_ADDER = "sglang.srt.managers.schedule_policy:PrefillAdder"
_BUDGET = f"{_MEMORY}.prefill_budget"
_MANAGERS = "sglang.srt.managers"

_BOTH = {
    f"{_CONFIGURATOR}.config_from_budget": "(self, budget_bytes, *, cap_tokens)",
    f"{_CONFIGURATOR}._apply_token_constraints": "(self, token_capacity)",
    f"{_CONFIGURATOR}._build_hybrid_swa_kv_pool": (
        "(self, *, full_max_total_num_tokens, swa_max_total_num_tokens, mha_pool_class)"
    ),
    f"{_CONFIGURATOR}._build_mha_kv_pool": "(self, *, max_total_num_tokens, mha_pool_class, quant_method)",
    f"{_CONFIGURATOR}._build_token_to_kv_pool_allocator": (
        "(self, *, sizes, token_to_kv_pool, is_dsv4_model, req_to_token_pool, token_to_kv_pool_allocator)"
    ),
    f"{_POOL}._create_buffers_normal": "(self)",
    f"{_POOL}._kv_buffer_shapes": "(self)",
    f"{_MEMORY}.swa_memory_pool:SWAKVPool.register_mapping": "(self, full_to_swa_index_mapping)",
    f"{_PLAIN}.__init__": "(self, size, dtype, device, kvcache, need_sort)",
    f"{_PLAIN}.alloc": "(self, need_size)",
    f"{_PLAIN}.free": "(self, free_index)",
    f"{_PLAIN}.clear": "(self)",
    f"{_PLAIN}.available_size": "(self)",
    f"{_PAGED}.__init__": "(self, size, page_size, dtype, device, kvcache, need_sort)",
    f"{_PAGED}.alloc": "(self, need_size)",
    f"{_PAGED}.alloc_extend": (
        "(self, prefix_lens, prefix_lens_cpu, seq_lens, seq_lens_cpu, last_loc, extend_num_tokens, num_new_pages)"
    ),
    f"{_PAGED}.alloc_decode": "(self, seq_lens, seq_lens_cpu, last_loc)",
    f"{_PAGED}.free": "(self, free_index)",
    f"{_PAGED}.clear": "(self)",
    "sglang.srt.utils.common:get_num_new_pages": "(seq_lens, page_size, prefix_lens, decode)",
    f"{_PAIRS}.alloc": "(self, need_size)",
    f"{_PAIRS}.alloc_extend": (
        "(self, prefix_lens, prefix_lens_cpu, seq_lens, seq_lens_cpu, last_loc, extend_num_tokens)"
    ),
    f"{_PAIRS}.alloc_decode": "(self, seq_lens, seq_lens_cpu, last_loc)",
    f"{_PAIRS}.free_swa": "(self, free_index)",
    f"{_PAIRS}.clear": "(self)",
    f"{_ADDER}.add_one_req": "(self, req, has_chunked_req, truncation_align_size)",
    f"{_ADDER}.add_chunked_req": "(self, req)",
    f"{_MANAGERS}.scheduler:Scheduler.get_new_batch_prefill": "(self, running_batch)",
    f"{_MANAGERS}.schedule_batch:ScheduleBatch.check_decode_mem": "(self, selected_indices)",
    f"{_MANAGERS}.schedule_batch:ScheduleBatch.new_tokens_required_next_decode": "(self, selected_indices)",
    f"{_MANAGERS}.scheduler_components.pool_stats_observer:SchedulerPoolStatsObserver.get_pool_stats": "(self)",
}

KV_SHAPES: dict[str, dict[str, str]] = {
    "0.5.16": _BOTH
    | {
        f"{_MANAGERS}.schedule_batch:ScheduleBatch.retract_decode": "(self, server_args)",
        f"{_PAIRS}.__init__": "(self, size, size_swa, page_size, dtype, device, kvcache, need_sort)",
        f"{_ADDER}._lock_node": "(self, last_node)",
        f"{_ADDER}._swa_budget_for_req": "(self, extend_input_len, swa_host_hit_length)",
        f"{_MANAGERS}.scheduler:Scheduler.is_fully_idle": "(self, for_health_check)",
    },
    "0.5.23": _BOTH
    | {
        f"{_MANAGERS}.schedule_batch:ScheduleBatch.retract_decode": "(self)",
        f"{_PAIRS}.__init__": (
            "(self, size, size_swa, page_size, dtype, device, kvcache, need_sort, req_to_token_pool)"
        ),
        f"{_PLAIN}.free_page_ids": "(self, page_ids)",
        f"{_PLAIN}.free_group_begin": "(self)",
        f"{_PLAIN}.free_group_end": "(self)",
        f"{_PLAIN}._copy_for_free_group": "(free_index)",
        f"{_PLAIN}.get_all_free_pages": "(self)",
        f"{_PAGED}.free_segment": "(self, free_index, *, start_pos)",
        f"{_PAGED}.free_page_ids": "(self, page_ids)",
        f"{_PAGED}._release_page_ids": "(self, *page_ids)",
        f"{_PAGED}.get_all_free_pages": "(self)",
        f"{_PAIRS}.clear_full_to_swa_mapping": "(self, full_indices)",
        f"{_PLAIN}.check_decode_capacity": "(self, *, num_tokens, tree_cache, requests, spec_algorithm)",
        f"{_PLAIN}.evict_to_free_tokens": "(self, tree_cache, num_tokens)",
        f"{_PAIRS}.evict_to_free_tokens": "(self, tree_cache, num_tokens)",
        f"{_PAIRS}.free_group_begin": "(self)",
        f"{_PAIRS}.free_group_end": "(self)",
        f"{_PAIRS}._free_swa_pages": "(self, free_index, start_pos)",
        f"{_PAIRS}.swa_capacity_and_available": "(self, *, full_capacity, swa_capacity)",
        f"{_PLAIN}.create_prefill_budget": "(self, tree_cache, *, num_mixed_decode_tokens)",
        f"{_PAIRS}.create_prefill_budget": "(self, tree_cache, *, num_mixed_decode_tokens)",
        f"{_BUDGET}:PrefillBudget.check_prefill": (
            "(self, *, extend_input_len, total_tokens, max_new_tokens, input_tokens, swa_host_hit_length, "
            "chunk_limit, auxiliary_swa_host_hit_length)"
        ),
        f"{_BUDGET}:PrefillBudget.available_chunk_tokens": "(self, chunk_limit)",
        f"{_BUDGET}:SWAPrefillBudget.swa_tokens": (
            "(self, extend_input_len, max_new_tokens, *, chunk_limit, swa_host_hit_length)"
        ),
        f"{_BUDGET}:SWAPrefillBudget.available_chunk_tokens": "(self, chunk_limit)",
        f"{_ADDER}._lock_node": "(self, last_node, *, lock_host)",
        f"{_MANAGERS}.scheduler:Scheduler.is_fully_idle": "(self, for_health_check, ignore_waiting)",
    },
}
