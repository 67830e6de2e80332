"""Qwen 3.5: Gated DeltaNet in three layers of four, gated full attention in the fourth, MLPs or experts."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import Decoder, nested
from farspan.models.families.rope import rope_table
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import AttentionKind, LayerSpec, ModelSpec, MoeSpec, StateTensor
from farspan.models.tensors import DTYPE_BYTES, Shard, WeightPart


class _DeltaNet:
    """The dimensions of Gated DeltaNet (transformers 5.23 models/qwen3_5/modeling_qwen3_5.py)."""

    def __init__(self, reader: ConfigReader, dtype_bytes: int) -> None:
        self.key_heads = reader.integer("linear_num_key_heads")
        self.value_heads = reader.integer("linear_num_value_heads")
        self.key_dim = reader.integer("linear_key_head_dim")
        self.value_dim = reader.integer("linear_value_head_dim")
        self.kernel = reader.integer("linear_conv_kernel_dim")
        state = reader.text("mamba_ssm_dtype", "float32")
        if state not in DTYPE_BYTES:
            reader.refuse("mamba_ssm_dtype", f"is {state!r}")
        self.inner = self.value_heads * self.value_dim
        self.channels = 2 * self.key_heads * self.key_dim + self.inner
        # vllm 0.32.0 layers/mamba/mamba_utils.py: MambaStateShapeCalculator.gated_delta_net_state_shape
        self.states = (
            StateTensor("conv", (self.channels, self.kernel - 1), dtype_bytes, 0),
            StateTensor("recurrent", (self.value_heads, self.value_dim, self.key_dim), DTYPE_BYTES[state], 0),
        )

    def add(self, weights: WeightsBuilder, hidden: int) -> None:
        part, name = WeightPart.ATTENTION, "layers.*.linear_attn."
        weights.add(part, name + "dt_bias", self.value_heads, shard=Shard.SPLIT)
        weights.add(part, name + "A_log", self.value_heads, shard=Shard.SPLIT)
        weights.add(part, name + "conv1d", self.channels, 1, self.kernel, shard=Shard.SPLIT)
        weights.norm(name + "norm", self.value_dim)
        weights.linear(part, name + "in_proj_qkv", self.channels, hidden, Shard.SPLIT)
        weights.linear(part, name + "in_proj_z", self.inner, hidden, Shard.SPLIT)
        for gate in ("in_proj_b", "in_proj_a"):
            weights.linear(part, name + gate, self.value_heads, hidden, Shard.SPLIT)
        weights.linear(part, name + "out_proj", hidden, self.inner, Shard.SPLIT)


def _moe(decoder: Decoder) -> MoeSpec | None:
    reader = decoder.reader
    if not decoder.architecture.startswith("Qwen3_5Moe"):
        return None
    return MoeSpec(
        num_experts=reader.integer("num_experts"),
        top_k=reader.integer("num_experts_per_tok"),
        intermediate_size=reader.integer("moe_intermediate_size"),
        shared_intermediate_size=reader.integer("shared_expert_intermediate_size"),
    )


def _feed_forward(weights: WeightsBuilder, hidden: int, width: int, moe: MoeSpec | None) -> None:
    if moe is None:
        blocks.gated_mlp(weights, "layers.*.mlp", hidden=hidden, width=width)
        return
    blocks.router(weights, count=moe.num_experts, hidden=hidden)
    blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=moe.intermediate_size)
    part, name = WeightPart.SHARED_EXPERTS, "layers.*.mlp.shared_expert"
    blocks.gated_mlp(weights, name, hidden=hidden, width=moe.shared_intermediate_size, part=part)
    weights.linear(part, f"{name}_gate", 1, hidden, quantizable=False)


def _layers(decoder: Decoder) -> None:
    reader, hidden = decoder.reader, decoder.hidden
    heads, kv_heads = reader.integer("num_attention_heads"), reader.integer("num_key_value_heads")
    head_dim = reader.integer("head_dim")
    gated = reader.flag("attn_output_gate", True)
    delta = _DeltaNet(reader, DTYPE_BYTES[reader.dtype()])
    kinds = reader.per_layer("layer_types", decoder.num_layers, ["linear_attention", "full_attention"])
    moe = _moe(decoder)
    width = 0 if moe else reader.integer("intermediate_size")
    reader.expect("attention_bias", False)
    reader.expect("hidden_act", "silu")
    if reader.integers("mlp_only_layers", []):
        reader.refuse("mlp_only_layers", "is not empty, which farspan does not model")
    # layer_types says what full_attention_interval says; MTP layers load for speculative decoding only.
    reader.ignore("full_attention_interval", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")
    for index in range(decoder.num_layers):
        weights = decoder.weights.at_layer(index)
        linear = kinds[index] == "linear_attention"
        if linear:
            delta.add(weights, hidden)
        else:
            blocks.attention(
                weights,
                hidden=hidden,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                gated_query=gated,
                qk_norm="head",
            )
        _feed_forward(weights, hidden, width, moe)
        blocks.layer_norms(weights, hidden)
        decoder.layers.append(
            LayerSpec(
                index=index,
                attention=AttentionKind.LINEAR if linear else AttentionKind.FULL,
                num_heads=delta.value_heads if linear else heads,
                num_kv_heads=0 if linear else kv_heads,
                head_dim=delta.key_dim if linear else head_dim,
                value_head_dim=delta.value_dim if linear else head_dim,
                rope=not linear,
                states=delta.states if linear else (),
                intermediate_size=width,
                moe=moe,
            )
        )


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`)."""
    decoder = nested(reader, name, "model.language_model.")
    _layers(decoder)
    reader.ignore("image_token_id", "video_token_id", "vision_end_token_id", "vision_start_token_id")
    tower = reader.section("vision_config")
    if tower is not None:
        from farspan.models.families import vision

        vision.qwen3(tower, decoder.weights, decoder.hidden)
    head_dim = decoder.reader.integer("head_dim")
    return decoder.build([rope_table(decoder.reader, head_dim, decoder.positions)])
