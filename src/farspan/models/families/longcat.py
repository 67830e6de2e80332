"""LongCat Flash: each layer has two latent attentions and two MLPs, with experts beside them that may be empty."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.decoder import Decoder
from farspan.models.families.rope import rope_tables
from farspan.models.spec import AttentionKind, LatentSpec, LayerSpec, MoeSpec
from farspan.models.tensors import RopeSpec


def read_layers(decoder: Decoder) -> list[RopeSpec]:
    """Read every layer, as two records of attention each; returns the cos/sin table (vllm 0.33.0
    models/longcat_flash.py)."""
    reader, hidden = decoder.reader, decoder.hidden
    heads = reader.integer("num_attention_heads")
    latent = LatentSpec(
        kv_lora_rank=reader.integer("kv_lora_rank"),
        rope_dim=reader.integer("qk_rope_head_dim"),
        nope_dim=reader.integer("qk_nope_head_dim"),
        value_dim=reader.integer("v_head_dim"),
        q_lora_rank=reader.integer("q_lora_rank", 0, zero=True),
    )
    width = reader.integer("ffn_hidden_size")
    moe = MoeSpec(
        reader.integer("n_routed_experts"),
        reader.integer("moe_topk"),
        reader.integer("expert_ffn_hidden_size"),
    )
    empty = reader.integer("zero_expert_num", 0, zero=True)
    bias = reader.flag("router_bias", False)
    reader.expect("attention_bias", False)
    reader.ignore("num_key_value_heads", "head_dim", "qk_head_dim", "zero_expert_type", "mla_scale_q_lora")
    reader.ignore("mla_scale_kv_lora", "attention_method")
    for index in range(decoder.num_layers):
        weights = decoder.weights.at_layer(index)
        count = moe.num_experts + empty
        blocks.router(
            weights, count=count, hidden=hidden, bias=bias, correction=True, name="layers.*.mlp.router"
        )
        blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=moe.intermediate_size)
        for half in range(2):
            blocks.latent_attention(weights, hidden=hidden, heads=heads, latent=latent)
            blocks.mlp(weights, f"layers.*.mlps.{half}", hidden=hidden, width=width)
            blocks.layer_norms(weights, hidden)
            decoder.layers.append(
                LayerSpec(
                    index=2 * index + half,
                    attention=AttentionKind.MLA,
                    num_heads=heads,
                    num_kv_heads=1,
                    head_dim=latent.kv_lora_rank + latent.rope_dim,
                    value_head_dim=0,
                    latent=latent,
                    intermediate_size=width,
                    moe=moe if half == 0 else None,
                )
            )
    return rope_tables(reader, {"full": latent.rope_dim}, decoder.positions)
