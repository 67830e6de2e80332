"""Bytes of one token on one rank in SGLang's KV pools, by kind of layer (the sources are those of pool.py)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from farspan.engines.sglang.versions import SglangRules
from farspan.errors import InputError
from farspan.models.spec import AttentionKind, KvDtype, LayerSpec, ModelSpec

WINDOWED = (AttentionKind.CHUNKED_LOCAL, AttentionKind.SLIDING_WINDOW)
_DSA_QUANT_BLOCK = 128


class SglangKvLayout(NamedTuple):
    """Bytes of one token on one rank, by pool.

    Args:
        full_layers: Layers in the full pool (every attention layer when there is one pool).
        window_layers: Layers in the window pool; 0 when there is one pool.
        full_layer_bytes: Bytes a token in one full layer.
        window_layer_bytes: Bytes a token in one window layer.
        window: Window or chunk of the window pool, tokens; 0 when there is one pool.
        stored_layer_bytes: Bytes a token really takes in one full layer, where SGLang counts fewer.
        indexer_bytes: Bytes a token of all sparse-attention index keys together.
        state_bytes: Recurrent state of one request, all layers.
        latent: Whether K and V are one buffer (MLA).
        draft_cell_bytes: Bytes a token of a draft's layers as the pool is sized, which takes them for the model's own.
    """

    full_layers: int
    window_layers: int
    full_layer_bytes: int
    window_layer_bytes: int
    window: int
    stored_layer_bytes: int
    indexer_bytes: int
    state_bytes: int
    latent: bool
    draft_cell_bytes: int = 0

    @property
    def cell_bytes(self) -> int:
        """Bytes a token of the full pool takes: all layers in it, and a draft's."""
        return self.full_layers * self.full_layer_bytes + self.indexer_bytes + self.draft_cell_bytes

    def with_draft(self, layers: int, rules: SglangRules) -> SglangKvLayout:
        """The layout with that many draft layers, each as large as the model's own (`DefaultPoolConfigurator`)."""
        if not rules.counts_drafts or (self.window_layers and not rules.counts_drafts_beside_windows):
            return self
        if self.window_layers:
            return self._replace(draft_cell_bytes=layers * self.full_layer_bytes)
        if not rules.counts_draft_apart:
            cell = int(self.cell_bytes * (1 + layers / self.full_layers))
            return self._replace(draft_cell_bytes=cell - self.cell_bytes)
        keys = int(self.indexer_bytes / self.full_layers) * layers
        kept = int((self.cell_bytes - self.indexer_bytes) * layers / self.full_layers)
        return self._replace(draft_cell_bytes=kept + keys)

    @property
    def window_cell_bytes(self) -> int:
        """Bytes a token of the window pool takes."""
        return self.window_layers * self.window_layer_bytes


@lru_cache(maxsize=256)
def kv_layout(
    model: ModelSpec, kv_dtype: KvDtype, tp: int, rules: SglangRules, *, hybrid: bool
) -> SglangKvLayout:
    """Read a model's KV layout as SGLang does.

    Raises:
        InputError: The model has attention whose pools are not mirrored.
    """
    if any(layer.attention is AttentionKind.COMPRESSED for layer in model.layers):
        raise InputError(
            f"{model.name} keeps latents at several rates and running compressor states in pools of their own, and "
            "farspan does not mirror how SGLang sizes those",
            "read max_total_num_tokens off the log of a server with few requests",
        )
    width = kv_dtype.value_bytes(model.dtype_bytes)
    kept = [layer for layer in model.layers if not layer.attention.keeps_no_tokens]
    if not kept:
        raise InputError(f"{model.name} has no attention layer", "SGLang's KV pool would be empty")
    windowed = [layer for layer in kept if layer.attention in WINDOWED]
    full = [layer for layer in kept if layer.attention not in WINDOWED]
    if not windowed:
        hybrid = False
    in_full = full if hybrid else kept
    # Without a pool of their own, window layers are laid out like the model's first full layer.
    pattern = full[0] if full else kept[0]
    latent = pattern.attention is AttentionKind.MLA
    return SglangKvLayout(
        full_layers=len(in_full),
        window_layers=len(windowed) if hybrid else 0,
        full_layer_bytes=_mean(
            [_layer_bytes(layer, kv_dtype, width, tp, rules) for layer in full or [pattern]]
        ),
        window_layer_bytes=windowed[0].kv_entry_bytes(width, tp) if hybrid else 0,
        window=(windowed[0].window or 0) if hybrid else 0,
        stored_layer_bytes=_mean([_stored_bytes(layer, kv_dtype, width, tp) for layer in full or [pattern]]),
        indexer_bytes=sum(layer.indexer_entry_bytes for layer in in_full) if latent else 0,
        state_bytes=sum(layer.state_bytes(tp) for layer in model.layers),
        latent=latent,
    )


@lru_cache(maxsize=256)
def is_hybrid(model: ModelSpec, rules: SglangRules, *, ratio: float | None, off: bool) -> bool:
    """Whether window layers get a pool of their own."""
    if off or not any(layer.attention in WINDOWED for layer in model.layers):
        return False
    if rules.hybrid_architectures is not None:
        return not rules.hybrid_architectures.isdisjoint(model.architectures)
    if model.architecture.startswith("Llama4"):
        return bool(ratio)
    return model.architecture not in rules.never_hybrid


def _mean(layer_bytes: list[int]) -> int:
    """What one layer takes where all are alike, else the average (Nemotron NAS has KV heads of its own in each)."""
    return -(-sum(layer_bytes) // len(layer_bytes))


def _layer_bytes(layer: LayerSpec, kv_dtype: KvDtype, width: int, tp: int, rules: SglangRules) -> int:
    """Bytes a token in one layer as the pool is sized; before 0.5.23 sparse MLA in FP8 is undercounted."""
    if rules.counts_sparse_mla_scales:
        return _stored_bytes(layer, kv_dtype, width, tp)
    return layer.kv_entry_bytes(width, tp)


def _stored_bytes(layer: LayerSpec, kv_dtype: KvDtype, width: int, tp: int) -> int:
    """Bytes a token in one layer as the buffer is made: sparse MLA in FP8 keeps scales and bf16 RoPE."""
    latent = layer.latent
    if latent is not None and layer.indexer is not None and kv_dtype is KvDtype.FP8_E4M3:
        return latent.kv_lora_rank + latent.kv_lora_rank // _DSA_QUANT_BLOCK * 4 + latent.rope_dim * 2
    return layer.kv_entry_bytes(width, tp)
