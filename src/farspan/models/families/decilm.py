"""Nemotron NAS: every layer has KV heads and a width of its own, and may lack attention or an MLP altogether."""

from __future__ import annotations

from collections.abc import Mapping

from farspan.models.families import blocks
from farspan.models.families.decoder import Decoder
from farspan.models.families.rope import rope_tables
from farspan.models.spec import AttentionKind, LayerSpec
from farspan.models.tensors import RopeSpec, Shard, WeightPart


def _width(factor: float, hidden: int) -> int:
    """Two thirds of `factor` times four hidden sizes, rounded up to 256 (vllm 0.33.0 models/nemotron_nas.py:
    _ffn_mult_to_intermediate_size)."""
    width = int(2 * factor * hidden / 3)
    return -(-width // 256) * 256


def read_layers(decoder: Decoder) -> list[RopeSpec]:
    """Read every layer from `block_configs`; returns the cos/sin table."""
    reader, hidden = decoder.reader, decoder.hidden
    heads = reader.integer("num_attention_heads")
    head_dim = reader.integer("head_dim", hidden // heads)
    configs = reader.fields.get("block_configs")
    reader.ignore(
        "block_configs", "num_key_value_heads", "intermediate_size", "num_key_value_heads_per_layer"
    )
    reader.expect("attention_bias", False)
    reader.expect("mlp_bias", False)
    if not isinstance(configs, list) or len(configs) != decoder.num_layers:
        reader.refuse("block_configs", f"does not have one entry for each of {decoder.num_layers} layers")
    for index, config in enumerate(configs):
        attention, mlp = config["attention"], config["ffn"]
        for part in (attention, mlp):
            if not isinstance(part, Mapping):
                reader.refuse("block_configs", f"has no attention or ffn for layer {index}")
        weights = decoder.weights.at_layer(index)
        kv_heads, window = 0, attention.get("window_length")
        if attention.get("replace_with_linear"):
            weights.linear(
                WeightPart.ATTENTION, "layers.*.self_attn.linear_attn", hidden, hidden, Shard.SPLIT
            )
        elif not attention.get("no_op"):
            kv_heads = heads // int(attention["n_heads_in_group"])
            blocks.attention(weights, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
        width = 0
        if mlp.get("replace_with_linear"):
            weights.linear(WeightPart.DENSE_MLP, "layers.*.mlp.linear_mlp", hidden, hidden, Shard.SPLIT)
        elif not mlp.get("no_op"):
            factor = mlp.get("ffn_mult")
            width = int(mlp["intermediate_size"]) if factor is None else _width(float(factor), hidden)
            blocks.mlp(weights, "layers.*.mlp", hidden=hidden, width=width)
        for name, present in (("input_layernorm", kv_heads), ("post_attention_layernorm", width)):
            if present:
                weights.norm(f"layers.*.{name}", hidden)
        kind = AttentionKind.SLIDING_WINDOW if window else AttentionKind.FULL
        decoder.layers.append(
            LayerSpec(
                index=index,
                attention=kind if kv_heads else AttentionKind.NONE,
                num_heads=heads if kv_heads else 0,
                num_kv_heads=kv_heads,
                head_dim=head_dim if kv_heads else 0,
                value_head_dim=head_dim if kv_heads else 0,
                window=int(window) if window and kv_heads else None,
                rope=bool(kv_heads),
                intermediate_size=width,
            )
        )
    return rope_tables(reader, {"full": head_dim}, decoder.positions)
