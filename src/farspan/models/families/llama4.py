"""Llama 4: chunked-local attention with RoPE, every fourth layer full attention without it."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import Decoder, flat, nested
from farspan.models.families.rope import rope_table
from farspan.models.spec import AttentionKind, LayerSpec, ModelSpec, MoeSpec
from farspan.models.tensors import WeightPart

NO_ROPE_INTERVAL = (
    4  # transformers 5.23 models/llama4/configuration_llama4.py: default_no_rope_layer_interval
)


def _rope_layers(reader: ConfigReader, layers: int) -> list[bool]:
    """Whether each layer has RoPE. `no_rope_layers` holds 1 for layers WITH RoPE; the name is theirs.

    Absent or empty, (i + 1) % no_rope_layer_interval decides, 4 by default (same file as above).
    """
    interval = reader.integer("no_rope_layer_interval", NO_ROPE_INTERVAL)
    given = reader.integers("no_rope_layers", [])
    if not given:
        return [(index + 1) % interval != 0 for index in range(layers)]
    if len(given) != layers:
        reader.refuse("no_rope_layers", f"has {len(given)} entries for {layers} layers")
    return [bool(entry) for entry in given]


def _moe_layers(reader: ConfigReader, layers: int) -> set[int]:
    """Indices of the layers with experts (transformers 5.23: Llama4TextConfig.moe_layers; 0 steps means none,
    as vllm 0.32.0 models/llama4.py: Llama4DecoderLayer reads it)."""
    step = reader.integer("interleave_moe_layer_step", 1, zero=True)
    if "moe_layers" in reader:
        return set(reader.integers("moe_layers"))
    reader.ignore("moe_layers")
    return {index for index in range(layers) if step and (index + 1) % step == 0}


def _layers(decoder: Decoder) -> None:
    reader, hidden = decoder.reader, decoder.hidden
    heads = reader.integer("num_attention_heads")
    kv_heads = reader.integer("num_key_value_heads", heads)
    head_dim = reader.integer("head_dim", hidden // heads)
    chunk = reader.integer("attention_chunk_size", 8192)
    dense_width = reader.integer("intermediate_size_mlp")
    width = reader.integer("intermediate_size")
    bias = reader.flag("attention_bias", False)
    reader.expect("hidden_act", "silu")
    moe_layers = _moe_layers(reader, decoder.num_layers)
    moe = MoeSpec(
        num_experts=reader.integer("num_local_experts"),
        top_k=reader.integer("num_experts_per_tok"),
        intermediate_size=width,
        shared_intermediate_size=width,
    )
    ropes = _rope_layers(reader, decoder.num_layers)
    if "layer_types" in reader:
        known = {"chunked_attention": True, "full_attention": False}
        kinds = reader.per_layer("layer_types", decoder.num_layers, known)
        if [known[str(kind)] for kind in kinds] != ropes:
            reader.refuse("layer_types", "disagrees with no_rope_layers")
    # Query and key norms of Llama 4 have no weights (transformers 5.23: Llama4TextL2Norm); temperature
    # tuning scales queries only.
    reader.ignore("use_qk_norm", "attn_temperature_tuning", "attn_scale", "floor_scale", "layer_types")
    reader.ignore("rope_theta", "cache_implementation", "for_llm_compressor")
    for index in range(decoder.num_layers):
        weights = decoder.weights.at_layer(index)
        blocks.attention(
            weights,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            bias_qkv=bias,
            bias_out=bias,
        )
        sparse = index in moe_layers
        name = "layers.*.feed_forward"
        if sparse:
            blocks.router(weights, count=moe.num_experts, hidden=hidden, name=f"{name}.router")
            blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=width, name=f"{name}.experts")
            part = WeightPart.SHARED_EXPERTS
            blocks.gated_mlp(weights, f"{name}.shared_expert", hidden=hidden, width=width, part=part)
        else:
            blocks.gated_mlp(weights, name, hidden=hidden, width=dense_width)
        blocks.layer_norms(weights, hidden)
        decoder.layers.append(
            LayerSpec(
                index=index,
                attention=AttentionKind.CHUNKED_LOCAL if ropes[index] else AttentionKind.FULL,
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=head_dim,
                value_head_dim=head_dim,
                window=chunk if ropes[index] else None,
                rope=ropes[index],
                intermediate_size=0 if sparse else dense_width,
                moe=moe if sparse else None,
            )
        )


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`)."""
    if reader.texts("architectures")[0] == "Llama4ForCausalLM":
        decoder = flat(reader, name)
    else:
        decoder = nested(reader, name, "language_model.model.")
        reader.ignore("boi_token_index", "eoi_token_index", "image_token_index", "boi_token_id")
        reader.ignore("eoi_token_id", "image_token_id")
    _layers(decoder)
    notes: tuple[str, ...] = ()
    if decoder.outer is not decoder.reader:
        tower = reader.section("vision_config")
        if tower is None:
            notes = ("the config has no vision_config: the vision tower's weights are not counted",)
        else:
            from farspan.models.families import vision

            vision.llama4(tower, decoder.weights, decoder.hidden)
    head_dim = decoder.layers[0].head_dim
    return decoder.build([rope_table(decoder.reader, head_dim, decoder.positions)], notes)
