"""Print how vLLM's own code groups the caches of DeepSeek V4, a line for each [TOKENS, IN_FLIGHT]. Run by its Python.

python vllm_groups.py RATES CASES BYTES
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from vllm.v1.core import kv_cache_utils as planning
from vllm.v1.kv_cache_interface import KVCacheSpec, MLAAttentionSpec, SlidingWindowMLASpec

_PACKED = {"cache_dtype_str": "fp8_ds_mla", "model_version": "deepseek_v4", "state_content_bytes": 584}
_COMMON = {"num_kv_heads": 1, "alignment": 576}


def _specs(rates: list[int]) -> dict[str, KVCacheSpec]:
    """As models/deepseek_v4 builds them for its FP8 layout."""
    specs: dict[str, KVCacheSpec] = {}
    for index, rate in enumerate(rates):
        name = f"layers.{index}.attn"
        specs[f"{name}.window"] = SlidingWindowMLASpec(
            block_size=64, head_size=512, dtype=torch.uint8, sliding_window=128, **_COMMON, **_PACKED
        )
        if not rate:
            continue
        latent = {"block_size": 256, "dtype": torch.uint8, "tokens_per_state": rate, **_COMMON}
        folds = 2 if rate == 4 else 1
        state = {
            "block_size": 4 if rate == 4 else 8,
            "dtype": torch.float32,
            "sliding_window": folds * rate,
            **_COMMON,
        }
        specs[name] = MLAAttentionSpec(head_size=512, **latent, **_PACKED)
        specs[f"{name}.compressor"] = SlidingWindowMLASpec(head_size=2 * folds * 512, **state)
        if rate == 4:
            specs[f"{name}.indexer"] = MLAAttentionSpec(head_size=132, **latent)
            specs[f"{name}.indexer.compressor"] = SlidingWindowMLASpec(head_size=2 * folds * 128, **state)
    return specs


def _grouped(rates: list[int], tokens: int, in_flight: int, available: int) -> dict[str, Any]:
    layout = SimpleNamespace(is_block_outermost=True)
    config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=tokens),
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        cache_config=SimpleNamespace(
            get_resolved_kv_cache_layout=lambda: layout, num_gpu_blocks_override=None
        ),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, prefill_context_parallel_size=1),
        attention_config=SimpleNamespace(hisparse_config=None),
        max_in_flight_tokens=in_flight,
        speculative_config=None,
        kv_transfer_config=None,
    )
    groups = planning.get_kv_cache_groups(config, _specs(rates))
    block = planning._get_kv_cache_bytes_per_block(groups, layout)
    held = SimpleNamespace(
        num_blocks=available // block, kv_cache_groups=groups, hisparse_host_num_blocks=None
    )
    pages = sum(group.kv_cache_spec.max_memory_usage_pages(config) for group in groups)
    return {
        "groups": [[len(one.layer_names), one.kv_cache_spec.page_size_bytes] for one in groups],
        "block": block,
        "needed": block * pages,
        "concurrency": planning.get_max_concurrency_for_kv_cache_config(config, held),
    }


if __name__ == "__main__":
    rates, cases, available = map(json.loads, sys.argv[1:])
    for tokens, in_flight in cases:
        print(json.dumps(_grouped(rates, tokens, in_flight, available)))
