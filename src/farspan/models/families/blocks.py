"""Weights of the building blocks that families share; names follow the checkpoints."""

from __future__ import annotations

from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import AttentionKind, IndexerSpec, LatentSpec, LayerSpec, MoeSpec
from farspan.models.tensors import Shard, WeightPart

_ATTENTION = WeightPart.ATTENTION


def attention(
    weights: WeightsBuilder,
    *,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    value_dim: int = 0,
    gated_query: bool = False,
    bias_qkv: bool = False,
    bias_out: bool = False,
    qk_norm: str = "",
    qk_norm_bias: bool = False,
    sinks: bool = False,
    value_projection: bool = True,
) -> None:
    """Grouped-query attention.

    Args:
        weights: Where to record, at the right layer.
        hidden: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key/value heads.
        head_dim: Size of one query and key.
        value_dim: Size of one value; 0 when as large as a key.
        gated_query: Whether the query projection also yields an output gate of the same size.
        bias_qkv: Whether query, key and value projections have biases.
        bias_out: Whether the output projection has one.
        qk_norm: "head" for one scale a head dimension, "full" for one over all heads, "" for none.
        qk_norm_bias: Whether those scales have shifts.
        sinks: Whether each head has a learned attention sink.
        value_projection: False when the keys are used as values.
    """
    value_dim = value_dim or head_dim
    rows = heads * head_dim * (2 if gated_query else 1)
    weights.linear(_ATTENTION, "layers.*.self_attn.q_proj", rows, hidden, Shard.SPLIT, bias=bias_qkv)
    kv_rows = [("k_proj", kv_heads * head_dim)]
    if value_projection:
        kv_rows.append(("v_proj", kv_heads * value_dim))
    for name, size in kv_rows:
        weights.linear(
            _ATTENTION,
            f"layers.*.self_attn.{name}",
            size,
            hidden,
            Shard.KV_HEADS,
            units=kv_heads,
            bias=bias_qkv,
        )
    weights.linear(
        _ATTENTION,
        "layers.*.self_attn.o_proj",
        hidden,
        heads * value_dim,
        Shard.SPLIT,
        bias=bias_out,
        bias_split=False,
    )
    if qk_norm == "head":
        weights.norm("layers.*.self_attn.q_norm", head_dim, bias=qk_norm_bias)
        weights.norm("layers.*.self_attn.k_norm", head_dim, bias=qk_norm_bias)
    elif qk_norm == "full":
        weights.norm("layers.*.self_attn.q_norm", heads * head_dim)
        weights.norm("layers.*.self_attn.k_norm", kv_heads * head_dim)
    if sinks:
        weights.add(_ATTENTION, "layers.*.self_attn.sinks", heads, shard=Shard.SPLIT)


def latent_attention(weights: WeightsBuilder, *, hidden: int, heads: int, latent: LatentSpec) -> None:
    """Multi-head latent attention: down-projections whole on every rank, the rest split by head."""
    name = "layers.*.self_attn."
    query = heads * (latent.nope_dim + latent.rope_dim)
    if latent.q_lora_rank:
        weights.linear(_ATTENTION, name + "q_a_proj", latent.q_lora_rank, hidden)
        weights.norm(name + "q_a_layernorm", latent.q_lora_rank)
        weights.linear(_ATTENTION, name + "q_b_proj", query, latent.q_lora_rank, Shard.SPLIT)
    else:
        weights.linear(_ATTENTION, name + "q_proj", query, hidden, Shard.SPLIT)
    weights.linear(_ATTENTION, name + "kv_a_proj_with_mqa", latent.kv_lora_rank + latent.rope_dim, hidden)
    weights.norm(name + "kv_a_layernorm", latent.kv_lora_rank)
    up = heads * (latent.nope_dim + latent.value_dim)
    weights.linear(_ATTENTION, name + "kv_b_proj", up, latent.kv_lora_rank, Shard.SPLIT)
    weights.linear(_ATTENTION, name + "o_proj", hidden, heads * latent.value_dim, Shard.SPLIT)


def query_only(weights: WeightsBuilder, *, hidden: int, rows: int, norm: int) -> None:
    """Attention of a layer that reads another one's keys and values; `norm` is the query norm's size, 0 for none."""
    weights.linear(_ATTENTION, "layers.*.self_attn.q_proj", rows, hidden, Shard.SPLIT)
    weights.linear(_ATTENTION, "layers.*.self_attn.o_proj", hidden, rows, Shard.SPLIT)
    if norm:
        weights.norm("layers.*.self_attn.q_norm", norm)


def indexer(weights: WeightsBuilder, spec: IndexerSpec, *, hidden: int, rank: int) -> None:
    """DeepSeek V3.2's indexer, whole on every rank."""
    part, name = WeightPart.INDEXER, "layers.*.self_attn.indexer."
    weights.linear(part, name + "wq_b", spec.num_heads * spec.head_dim, rank)
    weights.linear(part, name + "wk", spec.head_dim, hidden)
    weights.norm(name + "k_norm", spec.head_dim, bias=True, part=part)
    weights.linear(part, name + "weights_proj", spec.num_heads, hidden, quantizable=False)


def mlp(
    weights: WeightsBuilder,
    name: str,
    *,
    hidden: int,
    width: int,
    gated: bool = True,
    bias: bool = False,
    part: WeightPart = WeightPart.DENSE_MLP,
) -> None:
    """An MLP with a gate (SwiGLU) or without (GPT, ReLU squared)."""
    for projection in ("gate_proj", "up_proj") if gated else ("up_proj",):
        weights.linear(part, f"{name}.{projection}", width, hidden, Shard.SPLIT, bias=bias)
    weights.linear(part, f"{name}.down_proj", hidden, width, Shard.SPLIT, bias=bias, bias_split=False)


def gated_mlp(
    weights: WeightsBuilder, name: str, *, hidden: int, width: int, part: WeightPart = WeightPart.DENSE_MLP
) -> None:
    """A gate, an up and a down projection, as in every SwiGLU MLP."""
    mlp(weights, name, hidden=hidden, width=width, part=part)


def experts(
    weights: WeightsBuilder,
    *,
    count: int,
    hidden: int,
    width: int,
    bias: bool = False,
    name: str = "layers.*.mlp.experts",
    gated: bool = True,
) -> None:
    """All routed experts of a layer: gate and up fused, then down; each split over the ranks by its width."""
    part, rows = WeightPart.EXPERTS, (2 if gated else 1) * width
    weights.add(part, f"{name}.gate_up_proj", count, rows, hidden, shard=Shard.SPLIT, quantizable=True)
    weights.add(part, f"{name}.down_proj", count, hidden, width, shard=Shard.SPLIT, quantizable=True)
    if bias:
        weights.add(part, f"{name}.gate_up_proj_bias", count, rows, shard=Shard.SPLIT)
        weights.add(part, f"{name}.down_proj_bias", count, hidden)


def router(
    weights: WeightsBuilder,
    *,
    count: int,
    hidden: int,
    bias: bool = False,
    correction: bool = False,
    name: str = "layers.*.mlp.gate",
) -> None:
    """The expert router, whole on every rank and never quantized; `correction` is its float32 score bias."""
    weights.linear(WeightPart.ROUTER, name, count, hidden, bias=bias, quantizable=False)
    if correction:
        weights.add(WeightPart.ROUTER, f"{name}.e_score_correction_bias", count, dtype_bytes=4)


def layer_norms(weights: WeightsBuilder, hidden: int) -> None:
    """The norms before attention and before the MLP."""
    weights.norm("layers.*.input_layernorm", hidden)
    weights.norm("layers.*.post_attention_layernorm", hidden)


def attention_layer(
    index: int,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    value_dim: int = 0,
    window: int | None = None,
    indexer: IndexerSpec | None = None,
    width: int = 0,
    moe: MoeSpec | None = None,
) -> LayerSpec:
    """The record of a grouped-query layer: sliding if it has a window, dense (`width`) without experts."""
    return LayerSpec(
        index=index,
        attention=AttentionKind.SLIDING_WINDOW if window else AttentionKind.FULL,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        value_head_dim=value_dim or head_dim,
        window=window or None,
        indexer=indexer,
        intermediate_size=0 if moe else width,
        moe=moe,
    )
