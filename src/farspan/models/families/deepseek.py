"""DeepSeek V2, V3 and V3.2, GLM 5 and Kimi K2.5's language model: latent attention, many small experts."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import Decoder, flat
from farspan.models.families.rope import rope_table
from farspan.models.spec import AttentionKind, IndexerSpec, LatentSpec, LayerSpec, ModelSpec, MoeSpec
from farspan.models.tensors import WeightPart

_SPARSE = ("DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")


def _latent(reader: ConfigReader) -> LatentSpec:
    return LatentSpec(
        kv_lora_rank=reader.integer("kv_lora_rank"),
        rope_dim=reader.integer("qk_rope_head_dim"),
        nope_dim=reader.integer("qk_nope_head_dim"),
        value_dim=reader.integer("v_head_dim"),
        q_lora_rank=reader.integer("q_lora_rank", 0),
    )


def _indexer(reader: ConfigReader) -> IndexerSpec:
    return IndexerSpec(
        num_heads=reader.integer("index_n_heads"),
        head_dim=reader.integer("index_head_dim"),
        top_k=reader.integer("index_topk"),
    )


def latent_layers(decoder: Decoder, *, sparse: bool) -> None:
    """Read every layer of a DeepSeek-style decoder into `decoder`; `sparse` ones have an indexer."""
    reader, hidden = decoder.reader, decoder.hidden
    heads = reader.integer("num_attention_heads")
    latent = _latent(reader)
    indexer = _indexer(reader) if sparse else None
    width = reader.integer("intermediate_size")
    first_sparse = reader.integer("first_k_dense_replace", 0, zero=True)
    expert_width = reader.integer("moe_intermediate_size")
    moe = MoeSpec(
        num_experts=reader.integer("n_routed_experts"),
        top_k=reader.integer("num_experts_per_tok"),
        intermediate_size=expert_width,
        shared_intermediate_size=expert_width * reader.integer("n_shared_experts", 0, zero=True),
    )
    reader.expect("attention_bias", False)
    reader.expect("hidden_act", "silu")
    reader.expect("moe_layer_freq", 1)
    correction = reader.text("topk_method", "noaux_tc") == "noaux_tc"
    # MTP layers are loaded for speculative decoding only; routing fields choose experts, not sizes.
    reader.ignore("num_nextn_predict_layers", "num_key_value_heads", "head_dim", "qk_head_dim", "ep_size")
    reader.ignore("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor", "scoring_func")
    reader.ignore("aux_loss_alpha", "seq_aux", "rope_interleave", "indexer_rope_interleave")
    for index in range(decoder.num_layers):
        weights = decoder.weights.at_layer(index)
        blocks.latent_attention(weights, hidden=hidden, heads=heads, latent=latent)
        if indexer is not None:
            part, name = WeightPart.INDEXER, "layers.*.self_attn.indexer."
            weights.linear(part, name + "wq_b", indexer.num_heads * indexer.head_dim, latent.q_lora_rank)
            weights.linear(part, name + "wk", indexer.head_dim, hidden)
            weights.norm(name + "k_norm", indexer.head_dim, bias=True, part=part)
            weights.linear(part, name + "weights_proj", indexer.num_heads, hidden, quantizable=False)
        routed = index >= first_sparse
        if routed:
            blocks.router(weights, count=moe.num_experts, hidden=hidden, correction=correction)
            blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=expert_width)
            if moe.shared_intermediate_size:
                name, shared = "layers.*.mlp.shared_experts", moe.shared_intermediate_size
                part = WeightPart.SHARED_EXPERTS
                blocks.gated_mlp(weights, name, hidden=hidden, width=shared, part=part)
        else:
            blocks.gated_mlp(weights, "layers.*.mlp", hidden=hidden, width=width)
        blocks.layer_norms(weights, hidden)
        decoder.layers.append(
            LayerSpec(
                index=index,
                attention=AttentionKind.MLA,
                num_heads=heads,
                num_kv_heads=1,
                head_dim=latent.kv_lora_rank + latent.rope_dim,
                value_head_dim=0,
                latent=latent,
                indexer=indexer,
                intermediate_size=0 if routed else width,
                moe=moe if routed else None,
            )
        )


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`)."""
    decoder = flat(reader, name)
    latent_layers(decoder, sparse=decoder.architecture in _SPARSE)
    latent = decoder.layers[0].latent
    assert latent is not None
    return decoder.build([rope_table(reader, latent.rope_dim, decoder.positions)])
