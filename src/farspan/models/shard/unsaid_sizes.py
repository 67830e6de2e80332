"""Sizes that a config leaves to be others' quotients and products, written out before those are divided."""

from __future__ import annotations

from typing import Any

from farspan.errors import UnsupportedError
from farspan.models.families.field_names import spellings
from farspan.models.shard.config_form import ConfigForm
from farspan.models.spec import LayerSpec, ModelSpec

# Architectures whose width no engine reads from a field (vllm 0.33.0 models/falcon.py: FalconMLP).
_FIXED_WIDTHS = frozenset({"FalconForCausalLM", "RWForCausalLM"})
# Short convolutions whose input is as wide as what they work on (vllm 0.33.0 layers/mamba/short_conv.py: ShortConv;
# sglang 0.5.23 srt/models/lfm2.py).
_SHORT_CONVOLUTIONS = ("conv_L_cache",)
# Decoders that do the arithmetic of another, under a name that takes a size of head: what they are written as, and
# the fields that say the rest. An InternLM 3 is a Llama with the biases of its projections said one by one.
_SAME_ARITHMETIC: dict[str, tuple[str, dict[str, Any]]] = {
    "InternLM2ForCausalLM": ("LlamaForCausalLM", {"model_type": "llama"}),
    "Qwen2ForCausalLM": ("InternLM3ForCausalLM", {"model_type": "llama", "qkv_bias": True, "bias": False}),
}
# What the other does not know.
_OWN_ATTENTION = ("dual_chunk_attention_config",)
_OWN_FIELDS = (
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    "attn_implementation",
)


def write_sizes(fields: dict[str, Any], model: ModelSpec) -> None:
    """Write out the sizes of heads, MLPs and Mamba layers where the config leaves them to be computed, in place.

    Args:
        fields: The decoder's config.
        model: The same as planners read it.

    Raises:
        UnsupportedError: The engines compute one of them in any case; it is named.
    """
    if "block_configs" in fields:
        raise UnsupportedError(
            "its layers are listed as objects that only code in the whole model's checkpoint reads"
        )
    _write_head_size(fields, model)
    _write_mlp_width(fields, model)
    _write_mamba_sizes(fields, model)
    if any(name in fields for name in _SHORT_CONVOLUTIONS):
        raise UnsupportedError(
            "its short convolutions are as wide as their input, so no field says the width of a rank's"
        )


def check_head_size(
    fields: dict[str, Any], model: ModelSpec, form: ConfigForm, ranks: int
) -> tuple[dict[str, Any], str]:
    """Give a decoder whose head size the engine computes the form of one that says it.

    Args:
        fields: The config of the whole decoder, its head size written out.
        model: The same as planners read it.
        form: What the engine asks.
        ranks: Tensor-parallel size.

    Returns:
        The fields, and in a sentence what was changed; empty where nothing was.

    Raises:
        UnsupportedError: No decoder that says it does the same arithmetic.
    """
    if (
        ranks == 1
        or model.architecture not in form.fixed_head_sizes
        or not any(map(_has_heads, model.layers))
    ):
        return fields, ""
    rule = f"{form.engine} takes a head of {model.architecture} to be the hidden size over the heads"
    same = _SAME_ARITHMETIC.get(model.architecture)
    if same is None or any(fields.get(name) for name in _OWN_ATTENTION):
        raise UnsupportedError(f"{rule}, {ranks} times too large on a rank alone")
    name, said = same
    kept = {field: value for field, value in fields.items() if field not in _OWN_FIELDS}
    return {**kept, "architectures": [name], **said}, f"written as a {name}, its equal: {rule}"


def check_expert_width(shard: ModelSpec, least: int) -> None:
    """Check that the engine leaves a rank's share of an expert as it is.

    Raises:
        UnsupportedError: It pads it, which it does not for one rank alone.
    """
    width = min((layer.moe.intermediate_size for layer in shard.layers if layer.moe), default=least)
    if width < least:
        raise UnsupportedError(
            f"a rank's expert width is {width}, which the engine pads to {least} on several ranks alone"
        )


def _has_heads(layer: LayerSpec) -> bool:
    return layer.latent is None and not layer.keeps_no_tokens


def _given(fields: dict[str, Any], name: str) -> bool:
    return any(fields.get(spelling) is not None for spelling in spellings(name))


def _write_head_size(fields: dict[str, Any], model: ModelSpec) -> None:
    if _given(fields, "head_dim"):
        return
    if (
        fields.get("model_type") == "kimi_linear"
    ):  # it takes a size from the heads, which latent attention leaves alone
        fields["head_dim"] = model.hidden_size // int(fields["num_attention_heads"])
        return
    sizes = {layer.head_dim for layer in model.layers if _has_heads(layer)}
    if len(sizes) == 1:
        fields["head_dim"] = sizes.pop()


def _write_mlp_width(fields: dict[str, Any], model: ModelSpec) -> None:
    widths = {layer.intermediate_size for layer in model.layers if layer.intermediate_size}
    if _given(fields, "intermediate_size") or len(widths) != 1:
        return
    if model.architecture in _FIXED_WIDTHS:
        raise UnsupportedError(
            "the engines take its MLP to be four hidden sizes wide, whatever the config says"
        )
    name = "n_inner" if "n_inner" in fields or "n_embd" in fields else "intermediate_size"
    fields[name] = widths.pop()


def _write_mamba_sizes(fields: dict[str, Any], model: ModelSpec) -> None:
    expand, heads = fields.get("mamba_expand"), fields.get("mamba_n_heads")
    if not isinstance(expand, int) or not isinstance(heads, int):
        return
    width = fields.get("mamba_d_ssm") or expand * model.hidden_size
    if fields.get("mamba_d_head") in (None, "auto"):
        fields["mamba_d_head"] = width // heads
    if "mamba_d_ssm" in fields:
        fields["mamba_d_ssm"] = width
