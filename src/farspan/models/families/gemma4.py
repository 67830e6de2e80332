"""Gemma 4: five sliding layers to one full one, of another head size, whose keys may serve as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import Decoder, flat, nested
from farspan.models.families.rope import section_table
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import AttentionKind, LayerSpec, ModelSpec, MoeSpec
from farspan.models.tensors import RopeSpec, Shard, WeightPart


def _sharing(kinds: Sequence[object], shared: int, reader: ConfigReader) -> list[int | None]:
    """For each layer, the layer whose KV it reads, or None when it keeps its own.

    The last `num_kv_shared_layers` layers read the last earlier layer of their own kind (transformers 5.23
    models/gemma4/configuration_gemma4.py: Gemma4TextConfig.kv_sharing_modes).
    """
    first = len(kinds) - shared
    sources: list[int | None] = [None] * first
    for kind in kinds[first:]:
        own = [index for index in range(first) if kinds[index] == kind]
        if not own:
            reader.refuse("num_kv_shared_layers", f"is {shared}: no earlier layer keeps KV of kind {kind}")
        sources.append(own[-1])
    return sources


def _feed_forward(weights: WeightsBuilder, hidden: int, width: int, moe: MoeSpec | None) -> None:
    """A dense MLP and, beside it, the experts: Gemma 4 runs both and adds them."""
    blocks.gated_mlp(weights, "layers.*.mlp", hidden=hidden, width=width)
    weights.norm("layers.*.pre_feedforward_layernorm", hidden)
    weights.norm("layers.*.post_feedforward_layernorm", hidden)
    if moe is None:
        return
    blocks.router(weights, count=moe.num_experts, hidden=hidden, name="layers.*.router.proj")
    weights.add(WeightPart.ROUTER, "layers.*.router.scale", hidden)
    weights.add(WeightPart.ROUTER, "layers.*.router.per_expert_scale", moe.num_experts)
    blocks.experts(
        weights, count=moe.num_experts, hidden=hidden, width=moe.intermediate_size, name="layers.*.experts"
    )
    for name in (
        "post_feedforward_layernorm_1",
        "post_feedforward_layernorm_2",
        "pre_feedforward_layernorm_2",
    ):
        weights.norm(f"layers.*.{name}", hidden)


def _per_layer_inputs(decoder: Decoder) -> int:
    """Embeddings looked up anew in every layer (the E2B and E4B models); returns their width, 0 without."""
    size = decoder.reader.integer("hidden_size_per_layer_input", 0, zero=True)
    vocab = decoder.reader.integer("vocab_size_per_layer_input", decoder.vocab)
    if size:
        total, weights = decoder.num_layers * size, decoder.weights
        part = WeightPart.EMBEDDING
        weights.add(part, "embed_tokens_per_layer", vocab, total, shard=Shard.VOCAB)
        weights.linear(part, "per_layer_model_projection", total, decoder.hidden, Shard.SPLIT)
        weights.norm("per_layer_projection_norm", size)
    return size


def _full_head_dim(reader: ConfigReader) -> int:
    """The head size of full layers: `global_head_dim`, or what transformers 5.24 writes for each such layer."""
    own = reader.fields.get("per_layer_config")
    reader.ignore("per_layer_config")
    sizes = {
        entry["head_dim"]
        for entry in (own.values() if isinstance(own, Mapping) else ())
        if isinstance(entry, Mapping) and isinstance(entry.get("head_dim"), int)
    }
    if len(sizes) > 1:
        reader.refuse(
            "per_layer_config", "gives full layers heads of different sizes, which farspan does not model"
        )
    return reader.integer("global_head_dim", sizes.pop() if sizes else 512)


def _audio(reader: ConfigReader, weights: WeightsBuilder, text_hidden: int) -> None:
    """The audio encoder: convolutions, then conformer blocks (transformers 5.24 models/gemma4: Gemma4AudioModel)."""
    hidden, depth = reader.integer("hidden_size"), reader.integer("num_hidden_layers")
    heads, kernel = reader.integer("num_attention_heads"), reader.integer("conv_kernel_size", 5)
    first, second = reader.integers("subsampling_conv_channels", [128, 32])
    out = reader.integer("output_proj_dims", 1536)
    part, name = WeightPart.VISION, "audio_tower."
    weights.add(part, name + "subsample", 9 * first * (1 + second) + first + second)
    weights.linear(part, name + "input_proj", hidden, 32 * second, quantizable=False)
    square, blocks_ = hidden * hidden, name + "layers."
    # Two feed-forwards of four times the width, q, k, v, output and relative keys, a gated convolution.
    weights.add(part, blocks_ + "projections", (2 * 8 + 5 + 3) * square, copies=depth)
    weights.add(part, blocks_ + "norms", 9 * hidden + kernel * hidden + hidden // heads, copies=depth)
    weights.linear(part, name + "output_proj", out, hidden, bias=True, quantizable=False)
    weights.linear(WeightPart.PROJECTOR, "embed_audio", text_hidden, out, quantizable=False)
    reader.ignore(*reader.fields)


def _layers(decoder: Decoder) -> list[RopeSpec]:
    reader, hidden = decoder.reader, decoder.hidden
    heads, kv_heads = reader.integer("num_attention_heads"), reader.integer("num_key_value_heads")
    head_dim, full_dim = reader.integer("head_dim"), _full_head_dim(reader)
    window, width = reader.integer("sliding_window"), reader.integer("intermediate_size")
    keys_as_values = reader.flag("attention_k_eq_v", False)
    full_kv_heads = reader.integer("num_global_key_value_heads", kv_heads)
    if not keys_as_values:
        full_kv_heads = kv_heads
    kinds = reader.per_layer("layer_types", decoder.num_layers, ["full_attention", "sliding_attention"])
    shared = reader.integer("num_kv_shared_layers", 0, zero=True)
    sources = _sharing(kinds, shared, reader)
    wide = reader.flag("use_double_wide_mlp", False)
    moe = None
    if reader.flag("enable_moe_block", False):
        moe = MoeSpec(
            num_experts=reader.integer("num_experts"),
            top_k=reader.integer("top_k_experts"),
            intermediate_size=reader.integer("moe_intermediate_size"),
        )
    reader.expect("attention_bias", False)
    reader.expect("use_bidirectional_attention", "vision")
    reader.ignore("hidden_activation", "final_logit_softcapping")
    reader.ignore("num_experts", "top_k_experts", "moe_intermediate_size")
    per_layer = _per_layer_inputs(decoder)
    for index in range(decoder.num_layers):
        weights = decoder.weights.at_layer(index)
        full, source = kinds[index] == "full_attention", sources[index]
        size, own_heads = (full_dim, full_kv_heads) if full else (head_dim, kv_heads)
        if source is None:
            blocks.attention(
                weights,
                hidden=hidden,
                heads=heads,
                kv_heads=own_heads,
                head_dim=size,
                qk_norm="head",
                value_projection=not (full and keys_as_values),
            )
        else:
            rows = heads * size
            weights.linear(WeightPart.ATTENTION, "layers.*.self_attn.q_proj", rows, hidden, Shard.SPLIT)
            weights.linear(WeightPart.ATTENTION, "layers.*.self_attn.o_proj", hidden, rows, Shard.SPLIT)
            weights.norm("layers.*.self_attn.q_norm", size)
        own_width = width * (2 if wide and source is not None else 1)
        _feed_forward(weights, hidden, own_width, moe)
        blocks.layer_norms(weights, hidden)
        weights.add(WeightPart.NORM, "layers.*.layer_scalar", 1)
        if per_layer:
            part = WeightPart.DENSE_MLP
            weights.linear(part, "layers.*.per_layer_input_gate", per_layer, hidden)
            weights.linear(part, "layers.*.per_layer_projection", hidden, per_layer)
            weights.norm("layers.*.post_per_layer_input_norm", hidden)
        decoder.layers.append(
            LayerSpec(
                index=index,
                attention=AttentionKind.FULL if full else AttentionKind.SLIDING_WINDOW,
                num_heads=heads,
                num_kv_heads=own_heads,
                head_dim=size,
                value_head_dim=size,
                window=None if full else window,
                shares_kv_with=source,
                intermediate_size=own_width,
                moe=moe,
            )
        )
    ropes = reader.section("rope_parameters")
    if ropes is None:
        reader.refuse("rope_parameters", "is missing", "use the model's complete config.json")
    tables = []
    for kind, size in (("full_attention", full_dim), ("sliding_attention", head_dim)):
        section = ropes.section(kind)
        if section is None:
            ropes.refuse(kind, "is missing")
        tables.append(section_table(section, size, decoder.positions))
    ropes.finish()
    return tables


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`)."""
    if "text_config" not in reader:
        decoder = flat(reader, name, tied=True)
        return decoder.build(_layers(decoder))
    decoder = nested(reader, name, "model.language_model.", tied=True)
    ropes = _layers(decoder)
    audio = reader.section("audio_config")
    if audio is not None:
        _audio(audio, decoder.weights, decoder.hidden)
    reader.ignore("audio_token_id", "boa_token_id", "boi_token_id", "eoa_token_id")
    reader.ignore("eoa_token_index", "eoi_token_id", "image_token_id", "video_token_id")
    reader.ignore("vision_soft_tokens_per_image")
    tower = reader.section("vision_config")
    if tower is not None:
        from farspan.models.families import vision

        vision.gemma4(tower, decoder.weights, decoder.hidden)
    return decoder.build(ropes)
