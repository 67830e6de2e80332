"""Llama 3, Mistral, Mixtral, Qwen 2, Qwen 3 and Qwen 3 MoE: grouped-query attention, SwiGLU or experts."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import flat
from farspan.models.families.rope import rope_table
from farspan.models.spec import ModelSpec, MoeSpec


def _windows(reader: ConfigReader, architecture: str, layers: int) -> list[int | None]:
    """The window of each layer, or None for full attention.

    Qwen: layers from `max_window_layers` on slide when `use_sliding_window` is set (transformers 5.23
    models/qwen2/configuration_qwen2.py). Mistral and Mixtral: every layer slides when `sliding_window` is
    set.
    """
    window = reader.integer("sliding_window", 0)
    if not architecture.startswith("Qwen"):
        return [window or None] * layers
    first = reader.integer("max_window_layers", layers, zero=True)
    if not reader.flag("use_sliding_window", False):
        window = 0
    if "layer_types" in reader:
        kinds = reader.per_layer("layer_types", layers, ["full_attention", "sliding_attention"])
        return [window if kind == "sliding_attention" else None for kind in kinds]
    return [window if window and index >= first else None for index in range(layers)]


def _experts(reader: ConfigReader, architecture: str, layers: int) -> list[MoeSpec | None]:
    """The experts of each layer.

    Qwen 3 MoE: layer i is sparse when (i + 1) divides by `decoder_sparse_step` and it is not in
    `mlp_only_layers` (transformers 5.23 models/qwen3_moe/modeling_qwen3_moe.py: Qwen3MoeDecoderLayer).
    """
    if architecture == "MixtralForCausalLM":
        count, top_k = reader.integer("num_local_experts"), reader.integer("num_experts_per_tok")
        return [MoeSpec(count, top_k, reader.integer("intermediate_size"))] * layers
    if architecture == "Qwen3MoeForCausalLM":
        count = reader.integer("num_experts" if "num_experts" in reader else "num_local_experts")
        moe = MoeSpec(count, reader.integer("num_experts_per_tok"), reader.integer("moe_intermediate_size"))
        step = reader.integer("decoder_sparse_step", 1)
        dense = set(reader.integers("mlp_only_layers", []))
        reader.expect("shared_expert_intermediate_size", 0)
        reader.ignore("norm_topk_prob")
        return [moe if index not in dense and (index + 1) % step == 0 else None for index in range(layers)]
    return [None] * layers


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`)."""
    decoder = flat(reader, name)
    architecture, hidden, layers = decoder.architecture, decoder.hidden, decoder.num_layers
    heads = reader.integer("num_attention_heads")
    kv_heads = reader.integer("num_key_value_heads", heads)
    head_dim = reader.integer("head_dim", hidden // heads)
    width = reader.integer("intermediate_size")
    bias = reader.flag("attention_bias", False)
    qk_norm = "head" if architecture.startswith("Qwen3") else ""
    reader.expect("hidden_act", "silu")
    reader.expect("mlp_bias", False)
    reader.expect("use_qk_norm", bool(qk_norm))
    reader.expect("qkv_bias", False)
    windows = _windows(reader, architecture, layers)
    experts = _experts(reader, architecture, layers)
    for index in range(layers):
        weights = decoder.weights.at_layer(index)
        blocks.attention(
            weights,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            bias_qkv=bias or architecture == "Qwen2ForCausalLM",
            bias_out=bias,
            qk_norm=qk_norm,
        )
        moe = experts[index]
        if moe is None:
            blocks.gated_mlp(weights, "layers.*.mlp", hidden=hidden, width=width)
        else:
            blocks.router(weights, count=moe.num_experts, hidden=hidden)
            blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=moe.intermediate_size)
        blocks.layer_norms(weights, hidden)
        decoder.layers.append(
            blocks.attention_layer(
                index,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                window=windows[index],
                width=width,
                moe=moe,
            )
        )
    return decoder.build([rope_table(reader, head_dim, decoder.positions)])
