"""Step 3.7 Flash: one full layer to three sliding ones, a gate a head, many small experts."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import flat
from farspan.models.families.rope import rope_table
from farspan.models.spec import ModelSpec, MoeSpec
from farspan.models.tensors import Shard, WeightPart


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`)."""
    decoder = flat(reader, name)
    hidden, layers = decoder.hidden, decoder.num_layers
    heads, kv_heads = reader.integer("num_attention_heads"), reader.integer("num_key_value_heads")
    head_dim, window = reader.integer("head_dim"), reader.integer("sliding_window")
    width = reader.integer("intermediate_size")
    first_sparse = reader.integer("first_k_dense_replace", 0, zero=True)
    moe = MoeSpec(
        num_experts=reader.integer("num_experts"),
        top_k=reader.integer("num_experts_per_tok"),
        intermediate_size=reader.integer("moe_intermediate_size"),
        shared_intermediate_size=reader.integer("share_expert_dim"),
    )
    kinds = reader.per_layer("layer_types", layers, ["full_attention", "sliding_attention"])
    correction = reader.flag("use_moe_router_bias", False)
    reader.expect("n_shared_experts", 1)
    reader.expect("hidden_act", "silu")
    # MTP layers load for speculative decoding only; scoring chooses experts.
    reader.ignore("num_nextn_predict_layers", "scoring_func", "moe_router_scaling_factor")
    for index in range(layers):
        weights = decoder.weights.at_layer(index)
        blocks.attention(
            weights, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qk_norm="head"
        )
        # The gate a head: transformers 5.23 models/step3p7/modeling_step3p7.py: Step3p7Attention.g_proj
        weights.linear(WeightPart.ATTENTION, "layers.*.self_attn.g_proj", heads, hidden, Shard.SPLIT)
        routed = index >= first_sparse
        if routed:
            blocks.router(weights, count=moe.num_experts, hidden=hidden, correction=correction)
            blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=moe.intermediate_size)
            part, shared = WeightPart.SHARED_EXPERTS, moe.shared_intermediate_size
            blocks.gated_mlp(weights, "layers.*.mlp.shared_experts", hidden=hidden, width=shared, part=part)
        else:
            blocks.gated_mlp(weights, "layers.*.mlp", hidden=hidden, width=width)
        blocks.layer_norms(weights, hidden)
        slides = kinds[index] == "sliding_attention"
        decoder.layers.append(
            blocks.attention_layer(
                index,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                window=window if slides else None,
                width=width,
                moe=moe if routed else None,
            )
        )
    table = rope_table(reader, head_dim, decoder.positions)
    return decoder.build([table])
