"""Zamba 2: Mamba layers, and a few transformer blocks that take turns beside some of them.

A hybrid layer runs one of `num_mem_blocks` blocks on its input and the embedding side by side, adds what adapters of
its own say, and then its Mamba. The blocks' weights are kept once; every hybrid layer has a KV cache of its own
(transformers 5.23 models/zamba2, vllm 0.33.0 models/zamba2.py).
"""

from __future__ import annotations

from farspan.models.families.decoder import Decoder
from farspan.models.families.mixers import read_mixer
from farspan.models.families.rope import rope_tables
from farspan.models.spec import AttentionKind, LayerSpec
from farspan.models.tensors import DTYPE_BYTES, RopeSpec, Shard, WeightPart

_HYBRID = "hybrid"
_ATTENTION, _MLP = WeightPart.ATTENTION, WeightPart.DENSE_MLP


def read_layers(decoder: Decoder) -> list[RopeSpec]:
    """Read every layer, a hybrid one as a record of attention and one of its Mamba; returns the cos/sin tables."""
    reader, hidden, weights = decoder.reader, decoder.hidden, decoder.weights
    mixer = read_mixer("mamba2", reader, hidden, DTYPE_BYTES[reader.dtype(decoder.outer.dtype())])
    kinds = reader.texts("layers_block_type", [])
    if len(kinds) != decoder.num_layers:
        reader.refuse("layers_block_type", f"names {len(kinds)} layers of {decoder.num_layers}")
    heads = reader.integer("num_attention_heads")
    keys = reader.integer("num_key_value_heads", heads)
    wide = reader.integer("attention_hidden_size", 2 * hidden)
    size = reader.integer("attention_head_dim", wide // heads)
    width = reader.integer("ffn_hidden_size", reader.integer("intermediate_size", 4 * hidden))
    rank, blocks = reader.integer("adapter_rank", 128), reader.integer("num_mem_blocks", 1)
    attention_adapters = reader.flag("use_shared_attention_adapter", False)
    reader.expect("add_bias_linear", False)
    reader.ignore("intermediate_size", "head_dim", "kv_channels", "num_query_groups", "hybrid_layer_ids")
    reader.ignore("use_shared_mlp_adapter", "use_long_context", "num_logits_to_keep", "mamba_headdim")
    rotated = reader.flag("use_mem_rope", False)
    for block in range(blocks):
        name = f"shared_blocks.{block}"
        weights.linear(_ATTENTION, f"{name}.q_proj", heads * size, wide, Shard.SPLIT)
        for projection in ("k_proj", "v_proj"):
            weights.linear(_ATTENTION, f"{name}.{projection}", keys * size, wide, Shard.KV_HEADS, units=keys)
        weights.linear(_ATTENTION, f"{name}.o_proj", hidden, heads * size, Shard.SPLIT)
        weights.linear(_MLP, f"{name}.gate_up_proj", 2 * width, hidden, Shard.SPLIT)
        weights.linear(_MLP, f"{name}.down_proj", hidden, width, Shard.SPLIT)
        weights.norm(f"{name}.input_layernorm", wide)
        weights.norm(f"{name}.pre_ff_layernorm", hidden)
    for index, kind in enumerate(kinds):
        at = weights.at_layer(index)
        at.norm("layers.*.input_layernorm", hidden)
        mixer.add(at, "mamba")
        if kind == _HYBRID:
            at.linear(_MLP, "layers.*.linear", hidden, hidden)
            at.linear(_MLP, "layers.*.adapter.down", rank, hidden)
            at.linear(_MLP, "layers.*.adapter.up", 2 * width, rank, Shard.SPLIT)
            if attention_adapters:
                for projection in ("q", "k", "v"):
                    at.linear(_ATTENTION, f"layers.*.adapter.{projection}.down", rank, wide)
                    at.linear(_ATTENTION, f"layers.*.adapter.{projection}.up", wide, rank, Shard.SPLIT)
            decoder.layers.append(
                LayerSpec(
                    index=len(decoder.layers),
                    attention=AttentionKind.FULL,
                    num_heads=heads,
                    num_kv_heads=keys,
                    head_dim=size,
                    value_head_dim=size,
                    rope=rotated,
                    intermediate_size=width,
                )
            )
        decoder.layers.append(
            LayerSpec(
                index=len(decoder.layers),
                attention=AttentionKind.LINEAR,
                num_heads=mixer.heads,
                num_kv_heads=0,
                head_dim=mixer.key_dim,
                value_head_dim=mixer.value_dim,
                rope=False,
                states=mixer.states,
            )
        )
    tables = rope_tables(reader, {"full": size}, decoder.positions)
    return tables if rotated else []
