"""The sizes of the built-in engine's KV cache: pages and segments by kind of layer (farspan/kv/sizing.py)."""

from __future__ import annotations

from functools import lru_cache

from farspan.engines.builtin.flags import BuiltinFlags
from farspan.kv.retention import LayerRetention
from farspan.kv.sizing import CacheSize, KindSize, choose_segment_bytes
from farspan.models.spec import AttentionKind, ModelSpec

_GRANULARITY = 2 * 1024**2  # CUDA's, of a device's memory


@lru_cache(maxsize=256)
def cache_size(model: ModelSpec, flags: BuiltinFlags, capacity_bytes: int) -> CacheSize:
    """The sizes of the KV cache, counted by the cache's own functions.

    Args:
        model: A model the built-in engine runs.
        flags: The server's flags.
        capacity_bytes: The most the cache may take when the server starts.
    """
    row_bytes, kinds = _kinds(model, flags.value_bytes, flags.fp8)
    wanted = None if flags.segment_mib is None else flags.segment_mib * 1024**2
    segment = choose_segment_bytes(max(0, capacity_bytes), len(model.layers), _GRANULARITY, wanted)
    return CacheSize(kinds, row_bytes, flags.page_tokens, segment, flags.step_tokens)


@lru_cache(maxsize=64)
def _kinds(model: ModelSpec, value_bytes: int, fp8: bool) -> tuple[int, tuple[KindSize, ...]]:
    """Bytes of a position in one layer, and the kinds of layers, those that keep everything first."""
    counts: dict[LayerRetention, int] = {}
    for layer in model.layers:
        chunked = layer.attention is AttentionKind.CHUNKED_LOCAL
        retention = LayerRetention(layer.window if chunked else None)
        counts[retention] = counts.get(retention, 0) + 1
    layer = model.layers[0]
    row = layer.kv_entry_bytes(1) + 8 * layer.num_kv_heads if fp8 else layer.kv_entry_bytes(value_bytes)
    ordered = sorted(counts.items(), key=lambda kind: not kind[0].full)
    return row, tuple(KindSize(retention, layers) for retention, layers in ordered)
