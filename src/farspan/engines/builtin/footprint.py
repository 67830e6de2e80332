"""Bytes of the built-in engine's allocations beside its KV cache."""

from __future__ import annotations

from functools import lru_cache

from farspan.models.spec import ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import rank_weight_bytes
from farspan.sizes import GIB

CONTEXT_BYTES = int(0.67 * GIB)  # 139.80 GiB less the 139.13 free to a process on one H200


@lru_cache(maxsize=64)
def weight_bytes(model: ModelSpec, value_bytes: int) -> int:
    """Text weights in the engine's dtype; the vision tower is not loaded."""
    by_part = rank_weight_bytes(model, 1).by_part
    text = sum(
        count for part, count in by_part.items() if part not in (WeightPart.VISION, WeightPart.PROJECTOR)
    )
    return text * value_bytes // model.dtype_bytes


@lru_cache(maxsize=64)
def working_bytes(model: ModelSpec, value_bytes: int, tokens: int) -> int:
    """Activations of one step, and the copy of its own keys and values for every query head
    (farspan/builtin/fused_attention.py: fused_attention); to earlier ones, queries are folded and nothing is copied."""
    widest = max(
        max(
            layer.intermediate_size,
            layer.moe.intermediate_size * layer.moe.top_k + layer.moe.shared_intermediate_size
            if layer.moe
            else 0,
        )
        for layer in model.layers
    )
    heads = max(layer.num_heads * layer.head_dim for layer in model.layers)
    step = tokens * value_bytes * (6 * model.hidden_size + 3 * heads + 2 * widest)
    grouped = any(layer.num_heads > layer.num_kv_heads for layer in model.layers)
    return step + (tokens * heads * 2 * value_bytes if grouped else 0)
