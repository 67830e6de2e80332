"""Kimi K3: Kimi Delta Attention in most layers, latent attention without RoPE in the rest, latent experts.

Layout from vllm 0.32.0 models/kimi_k3/nvidia (model.py, kda.py, mla.py); transformers 5.23 has no such class.
"""

from __future__ import annotations

from farspan.models.families import blocks, vision
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import Decoder, nested
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import (
    CONVOLUTION,
    AttentionKind,
    LatentSpec,
    LayerSpec,
    ModelSpec,
    MoeSpec,
    StateTensor,
)
from farspan.models.tensors import DTYPE_BYTES, Shard, WeightPart

_ATTENTION = WeightPart.ATTENTION
_FP32 = DTYPE_BYTES["float32"]
_NOTE = "weights follow vLLM 0.32's classes; no independent implementation was at hand to check them"


def _delta_attention(weights: WeightsBuilder, hidden: int, heads: int, head_dim: int, kernel: int) -> None:
    """KDA with a full-rank gate (kda.py: KimiK3DeltaAttention); f_a_proj is whole on every rank."""
    name, inner = "layers.*.self_attn.", heads * head_dim
    for projection in ("q_proj", "k_proj", "v_proj", "g_proj"):
        weights.linear(_ATTENTION, name + projection, inner, hidden, Shard.SPLIT)
    weights.linear(_ATTENTION, name + "f_a_proj", head_dim, hidden)
    weights.linear(_ATTENTION, name + "f_b_proj", inner, head_dim, Shard.SPLIT)
    weights.linear(_ATTENTION, name + "b_proj", heads, hidden, Shard.SPLIT)
    weights.add(_ATTENTION, name + "conv1d", 3 * inner, 1, kernel, shard=Shard.SPLIT, dtype_bytes=_FP32)
    weights.add(_ATTENTION, name + "dt_bias", inner, shard=Shard.SPLIT, dtype_bytes=_FP32)
    weights.add(_ATTENTION, name + "A_log", heads, shard=Shard.SPLIT, dtype_bytes=_FP32)
    weights.norm(name + "o_norm", head_dim)
    weights.linear(_ATTENTION, name + "o_proj", hidden, inner, Shard.SPLIT)


def _experts(weights: WeightsBuilder, hidden: int, latent: int, moe: MoeSpec, norm: bool) -> None:
    """Experts that work on a `latent`-wide projection of the stream (model.py: KimiMoE)."""
    blocks.router(weights, count=moe.num_experts, hidden=hidden, correction=True)
    name = "layers.*.block_sparse_moe."
    if latent != hidden:
        weights.linear(WeightPart.EXPERTS, name + "routed_expert_down_proj", latent, hidden)
        weights.linear(WeightPart.EXPERTS, name + "routed_expert_up_proj", hidden, latent)
        if norm:
            weights.norm(name + "routed_expert_norm", latent)
    blocks.experts(weights, count=moe.num_experts, hidden=latent, width=moe.intermediate_size)
    if moe.shared_intermediate_size:
        shared, part = moe.shared_intermediate_size, WeightPart.SHARED_EXPERTS
        blocks.gated_mlp(weights, name + "shared_experts", hidden=hidden, width=shared, part=part)


def _linear_layers(section: ConfigReader, layers: int) -> set[int]:
    """Indices of KDA layers; the config counts from 1, and must name every layer once."""
    full = [index - 1 for index in section.integers("full_attn_layers")]
    linear = [index - 1 for index in section.integers("kda_layers")]
    if sorted(full + linear) != list(range(layers)):
        section.refuse("kda_layers", f"and full_attn_layers do not name each of {layers} layers once")
    return set(linear)


def _layers(decoder: Decoder) -> None:
    reader, hidden = decoder.reader, decoder.hidden
    heads = reader.integer("num_attention_heads")
    latent = LatentSpec(
        kv_lora_rank=reader.integer("kv_lora_rank"),
        rope_dim=reader.integer("qk_rope_head_dim"),
        nope_dim=reader.integer("qk_nope_head_dim"),
        value_dim=reader.integer("v_head_dim"),
        q_lora_rank=reader.integer("q_lora_rank", 0),
    )
    section = reader.section("linear_attn_config")
    if section is None:
        reader.refuse("linear_attn_config", "is missing")
    linear = _linear_layers(section, decoder.num_layers)
    kda_heads, kda_dim = section.integer("num_heads"), section.integer("head_dim")
    kernel = section.integer("short_conv_kernel_size")
    section.expect("use_full_rank_gate", True)
    section.ignore("gate_lower_bound")
    section.finish()
    width, expert_width = reader.integer("intermediate_size"), reader.integer("moe_intermediate_size")
    moe = MoeSpec(
        num_experts=reader.integer("num_experts"),
        top_k=reader.integer("num_experts_per_token"),
        intermediate_size=expert_width,
        shared_intermediate_size=expert_width * reader.integer("num_shared_experts", 0, zero=True),
    )
    latent_hidden = reader.integer("routed_expert_hidden_size", hidden)
    latent_norm = reader.flag("latent_moe_use_norm", False)
    first_sparse = reader.integer("first_k_dense_replace", 0, zero=True)
    output_gate = reader.flag("mla_use_output_gate", False)
    residual_blocks = reader.integer("attn_res_block_size", 0)
    reader.expect("mla_use_nope", True)
    reader.expect("moe_layer_freq", 1)
    reader.expect("hidden_act", "situ", "silu")
    reader.ignore("activation_situ_beta", "activation_situ_linear_beta", "moe_renormalize", "topk_group")
    reader.ignore("moe_router_activation_func", "num_expert_group", "num_key_value_heads", "topk_method")
    reader.ignore("num_nextn_predict_layers", "routed_scaling_factor", "use_grouped_topk")
    inner = kda_heads * kda_dim
    states = (
        StateTensor(CONVOLUTION, (3 * inner, kernel - 1), DTYPE_BYTES[reader.dtype()], 0),
        StateTensor("recurrent", (kda_heads, kda_dim, kda_dim), _FP32, 0),
    )
    for index in range(decoder.num_layers):
        weights = decoder.weights.at_layer(index)
        if index in linear:
            _delta_attention(weights, hidden, kda_heads, kda_dim, kernel)
        else:
            blocks.latent_attention(weights, hidden=hidden, heads=heads, latent=latent)
            if output_gate:
                gate = heads * latent.value_dim
                weights.linear(_ATTENTION, "layers.*.self_attn.g_proj", gate, hidden, Shard.SPLIT)
        if residual_blocks:
            for name in ("self_attention_res", "mlp_res"):
                weights.norm(f"layers.*.{name}_norm", hidden)
                weights.add(WeightPart.NORM, f"layers.*.{name}_proj", 1, hidden)
        routed = index >= first_sparse
        if routed:
            _experts(weights, hidden, latent_hidden, moe, latent_norm)
        else:
            blocks.gated_mlp(weights, "layers.*.mlp", hidden=hidden, width=width)
        blocks.layer_norms(weights, hidden)
        is_linear = index in linear
        decoder.layers.append(
            LayerSpec(
                index=index,
                attention=AttentionKind.LINEAR if is_linear else AttentionKind.MLA,
                num_heads=kda_heads if is_linear else heads,
                num_kv_heads=0 if is_linear else 1,
                head_dim=kda_dim if is_linear else latent.kv_lora_rank + latent.rope_dim,
                value_head_dim=kda_dim if is_linear else 0,
                rope=False,
                latent=None if is_linear else latent,
                states=states if is_linear else (),
                intermediate_size=0 if routed else width,
                moe=moe if routed else None,
            )
        )
    if residual_blocks:
        decoder.weights.norm("output_attn_res_norm", hidden)
        decoder.weights.add(WeightPart.NORM, "output_attn_res_proj", 1, hidden)


# What Kimi K3's decoder has and Kimi Linear has not, under whose name vLLM serves both.
_OWN_FIELDS = ("routed_expert_hidden_size", "attn_res_block_size", "mla_use_output_gate")
TEXT_ARCHITECTURE = "KimiK3LinearForCausalLM"  # SGLang's name of the decoder alone


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`): the whole, or its decoder alone."""
    if reader.texts("architectures")[0] == "KimiK3ForConditionalGeneration":
        return _read_whole(reader, name)
    if not any(field in reader for field in _OWN_FIELDS):
        from farspan.models.families import model_reader

        return model_reader.read(reader, name)
    decoder = Decoder(name, TEXT_ARCHITECTURE, reader, reader)
    _layers(decoder)
    reader.ignore("head_dim")
    return decoder.build([], (_NOTE,))


def _read_whole(reader: ConfigReader, name: str) -> ModelSpec:
    decoder = nested(reader, name, "language_model.model.")
    _layers(decoder)
    reader.ignore("media_placeholder_token_id", "image_placeholder")
    tower = reader.section("vision_config")
    if tower is None:
        reader.refuse("vision_config", "is missing", "use the model's complete config.json")
    vision.moonvit(tower, decoder.weights, decoder.hidden)
    return decoder.build([], (_NOTE,))
