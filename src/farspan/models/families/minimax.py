"""MiniMax M2 (full attention) and M3 (full attention, most layers choosing blocks by an indexer)."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import Decoder, flat, nested
from farspan.models.families.layer_kinds import sparse_layers
from farspan.models.families.rope import rope_table
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import IndexerSpec, ModelSpec, MoeSpec
from farspan.models.tensors import Shard, WeightPart


def _indexer(reader: ConfigReader, layers: int) -> tuple[IndexerSpec | None, list[bool]]:
    """M3's block indexer and the layers that have one. Its keys are bf16 whatever the KV dtype
    (vllm 0.32.0 models/minimax_m3/common/indexer.py: MiniMaxM3IndexerCache)."""
    section = reader.section("sparse_attention_config")
    if section is None and "index_n_heads" in reader:
        return _own_fields(reader, layers)
    if section is None or not section.flag("use_sparse_attention", True):
        return None, [False] * layers
    frequency = section.per_layer("sparse_attention_freq", layers, [0, 1])
    indexer = IndexerSpec(
        num_heads=section.integer("sparse_num_index_heads"),
        head_dim=section.integer("sparse_index_dim"),
        top_k=section.integer("sparse_topk_blocks"),
        fp8_scale_block=0,
        divided=True,
    )
    disabled = section.per_layer("sparse_disable_index_value", layers, [0, 1])
    if any(on and not off for on, off in zip(frequency, disabled, strict=True)):
        section.refuse("sparse_disable_index_value", "is 0 in a sparse layer, which farspan does not model")
    section.ignore("sparse_block_size", "sparse_init_block", "sparse_local_block", "sparse_score_type")
    section.finish()
    return indexer, [bool(on) for on in frequency]


def _own_fields(reader: ConfigReader, layers: int) -> tuple[IndexerSpec, list[bool]]:
    """The same, as transformers 5.24 spells it."""
    indexer = IndexerSpec(
        num_heads=reader.integer("index_n_heads"),
        head_dim=reader.integer("index_head_dim"),
        top_k=reader.integer("index_topk_blocks"),
        fp8_scale_block=0,
        divided=True,
    )
    reader.ignore("index_block_size", "index_local_blocks")
    return indexer, [
        kind != "full_attention" for kind in reader.texts("layer_types", ["full_attention"] * layers)
    ]


def _indexer_weights(weights: WeightsBuilder, hidden: int, indexer: IndexerSpec) -> None:
    part, name = WeightPart.INDEXER, "layers.*.self_attn.indexer."
    rows, heads = indexer.num_heads * indexer.head_dim, indexer.num_heads
    weights.linear(part, name + "q_proj", rows, hidden, Shard.KV_HEADS, units=heads)
    weights.linear(part, name + "k_proj", indexer.head_dim, hidden)
    weights.norm(name + "q_norm", indexer.head_dim, part=part)
    weights.norm(name + "k_norm", indexer.head_dim, part=part)


def _moe(decoder: Decoder) -> tuple[MoeSpec, list[bool], int]:
    """The experts, the layers that have them, and the width of the dense layers."""
    reader, layers = decoder.reader, decoder.num_layers
    count, top_k = reader.integer("num_local_experts"), reader.integer("num_experts_per_tok")
    width = reader.integer("intermediate_size")
    shared = reader.integer("shared_intermediate_size", 0, zero=True)
    if decoder.architecture == "MiniMaxM2ForCausalLM":
        if shared:
            reader.refuse("shared_intermediate_size", f"is {shared}, which farspan does not model for M2")
        return MoeSpec(count, top_k, width), [True] * layers, 0
    shared *= reader.integer("n_shared_experts", 1, zero=True)
    moe = MoeSpec(count, top_k, reader.integer("moe_intermediate_size", width), shared)
    return moe, sparse_layers(reader, "all", layers), reader.integer("dense_intermediate_size")


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`), its fields at the top or under `text_config`."""
    if reader.section("text_config") is not None:
        return read_into(nested(reader, name, "model."))
    return read_into(flat(reader, name))


def read_into(decoder: Decoder, notes: tuple[str, ...] = ()) -> ModelSpec:
    """Read the layers of a decoder whose encoders, if any, are read already."""
    reader = decoder.reader
    hidden, layers = decoder.hidden, decoder.num_layers
    heads, kv_heads = reader.integer("num_attention_heads"), reader.integer("num_key_value_heads")
    head_dim = reader.integer("head_dim")
    usual = "per_layer" if decoder.architecture == "MiniMaxM2ForCausalLM" else "per_head"
    norm = {"per_layer": "full", "per_head": "head"}[reader.text("qk_norm_type", usual)]
    moe, sparse, dense_width = _moe(decoder)
    indexer, indexed = _indexer(reader, layers)
    correction = reader.flag("use_routing_bias", False)
    reader.expect("use_qk_norm", True)
    reader.expect("attention_output_gate", False)
    reader.expect("hidden_act", "silu", "swigluoai")
    # MTP modules load for speculative decoding only; the rest chooses experts or shapes activations.
    reader.ignore("use_mtp", "num_mtp_modules", "mtp_transformer_layers", "num_nextn_predict_layers")
    reader.ignore(
        "layer_types", "first_k_dense_replace", "routed_scaling_factor", "scoring_func", "swiglu_alpha"
    )
    reader.ignore("swiglu_limit", "use_gemma_norm")
    for index in range(layers):
        weights = decoder.weights.at_layer(index)
        blocks.attention(
            weights, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qk_norm=norm
        )
        if indexer is not None and indexed[index]:
            _indexer_weights(weights, hidden, indexer)
        if sparse[index]:
            blocks.router(weights, count=moe.num_experts, hidden=hidden, correction=correction)
            blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=moe.intermediate_size)
            if moe.shared_intermediate_size:
                part, shared = WeightPart.SHARED_EXPERTS, moe.shared_intermediate_size
                blocks.gated_mlp(
                    weights, "layers.*.mlp.shared_experts", hidden=hidden, width=shared, part=part
                )
        else:
            blocks.gated_mlp(weights, "layers.*.mlp", hidden=hidden, width=dense_width)
        blocks.layer_norms(weights, hidden)
        decoder.layers.append(
            blocks.attention_layer(
                index,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                indexer=indexer if indexed[index] else None,
                width=dense_width,
                moe=moe if sparse[index] else None,
            )
        )
    return decoder.build([rope_table(reader, head_dim, decoder.positions)], notes)
