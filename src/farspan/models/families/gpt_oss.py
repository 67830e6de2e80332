"""gpt-oss: sliding windows and full attention by turns, attention sinks, experts in MXFP4."""

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
    heads, kv_heads = reader.integer("num_attention_heads"), reader.integer("num_key_value_heads")
    head_dim, window = reader.integer("head_dim"), reader.integer("sliding_window")
    bias = reader.flag("attention_bias", True)
    moe = MoeSpec(
        num_experts=reader.integer("num_local_experts"),
        top_k=reader.integer("num_experts_per_tok"),
        intermediate_size=reader.integer("intermediate_size"),
    )
    kinds = reader.per_layer("layer_types", layers, ["full_attention", "sliding_attention"])
    reader.expect("hidden_act", "silu")
    reader.expect("experts_per_token", moe.top_k)
    reader.ignore("initial_context_length", "swiglu_limit")
    for index in range(layers):
        weights = decoder.weights.at_layer(index)
        blocks.attention(
            weights,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            bias_qkv=bias,
            bias_out=bias,
            sinks=True,
        )
        name_ = "layers.*.mlp"
        blocks.router(weights, count=moe.num_experts, hidden=hidden, bias=True, name=f"{name_}.router")
        blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=moe.intermediate_size, bias=True)
        blocks.layer_norms(weights, hidden)
        slides = kinds[index] == "sliding_attention"
        decoder.layers.append(
            blocks.attention_layer(
                index,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                window=window if slides else None,
                moe=moe,
            )
        )
    return decoder.build([rope_table(reader, head_dim, decoder.positions)])
