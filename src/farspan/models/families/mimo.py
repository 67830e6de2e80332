"""MiMo V2 Flash: narrow sliding windows with sinks between full layers; keys wider than values."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import flat
from farspan.models.families.rope import rope_table
from farspan.models.spec import ModelSpec, MoeSpec


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`)."""
    decoder = flat(reader, name)
    hidden, layers = decoder.hidden, decoder.num_layers
    names = ("num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim")
    full = tuple(reader.integer(name) for name in names)
    own = tuple(reader.integer(f"swa_{name}", size) for name, size in zip(names, full, strict=True))
    shapes = {"": full, "swa_": own}
    sinks = {
        "": reader.flag("add_full_attention_sink_bias", False),
        "swa_": reader.flag("add_swa_attention_sink_bias", False),
    }
    window, width = reader.integer("sliding_window"), reader.integer("intermediate_size")
    slides = reader.per_layer("hybrid_layer_pattern", layers, [0, 1])
    sparse = reader.per_layer("moe_layer_freq", layers, [0, 1])
    moe = MoeSpec(
        num_experts=reader.integer("n_routed_experts"),
        top_k=reader.integer("num_experts_per_tok"),
        intermediate_size=reader.integer("moe_intermediate_size"),
    )
    reader.expect("sliding_window_size", window)
    reader.expect("n_shared_experts", 0)
    reader.expect("attention_bias", False)
    reader.expect("hidden_act", "silu")
    reader.expect("topk_method", "noaux_tc")
    # vLLM and SGLang mask by sliding_window; attention_chunk_size repeats it under another name.
    reader.ignore("attention_chunk_size", "attention_value_scale", "layernorm_epsilon", "swa_rope_theta")
    reader.ignore("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor", "scoring_func")
    for index in range(layers):
        prefix = "swa_" if slides[index] else ""
        heads, kv_heads, head_dim, value_dim = shapes[prefix]
        weights = decoder.weights.at_layer(index)
        blocks.attention(
            weights,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            sinks=sinks[prefix],
        )
        if sparse[index]:
            blocks.router(weights, count=moe.num_experts, hidden=hidden, correction=True)
            blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=moe.intermediate_size)
        else:
            blocks.gated_mlp(weights, "layers.*.mlp", hidden=hidden, width=width)
        blocks.layer_norms(weights, hidden)
        decoder.layers.append(
            blocks.attention_layer(
                index,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                value_dim=value_dim,
                window=window if prefix else None,
                width=width,
                moe=moe if sparse[index] else None,
            )
        )
    # One table for each RoPE base, full and sliding.
    table = rope_table(reader, shapes[""][2], decoder.positions)
    return decoder.build([table, table])
