"""Vision towers and projectors. Engines shard them with the language model unless told otherwise."""

from __future__ import annotations

from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.tensors import Shard, WeightPart

_VISION, _PROJECTOR = WeightPart.VISION, WeightPart.PROJECTOR


def _linear(
    weights: WeightsBuilder,
    name: str,
    rows: int,
    columns: int,
    shard: Shard = Shard.SPLIT,
    *,
    bias: bool = True,
    copies: int = 1,
    part: WeightPart = _VISION,
) -> None:
    weights.linear(
        part,
        f"visual.{name}",
        rows,
        columns,
        shard,
        bias=bias,
        bias_split=rows > columns,
        quantizable=False,
        copies=copies,
    )


def _norm(weights: WeightsBuilder, name: str, size: int, *, bias: bool = True, copies: int = 1) -> None:
    weights.add(_VISION, f"visual.{name}", size, copies=copies)
    if bias:
        weights.add(_VISION, f"visual.{name}.bias", size, copies=copies)


def llama4(reader: ConfigReader, weights: WeightsBuilder, text_hidden: int) -> None:
    """Llama 4's tower, pixel-shuffle adapter and projector (transformers 5.23 models/llama4)."""
    hidden, depth = reader.integer("hidden_size"), reader.integer("num_hidden_layers")
    width, patch = reader.integer("intermediate_size"), reader.integer("patch_size")
    channels = reader.integer("num_channels", 3)
    patches = (reader.integer("image_size") // patch) ** 2 + 1
    into, out = reader.integer("projector_input_dim"), reader.integer("projector_output_dim")
    vision_out = reader.integer("vision_output_dim")
    shuffle = reader.number("pixel_shuffle_ratio")
    bias = reader.flag("multi_modal_projector_bias", False)
    reader.ignore("num_attention_heads", "hidden_act", "norm_eps", "rope_theta", "rope_parameters")
    reader.ignore("projector_dropout", "vision_feature_layer", "vision_feature_select_strategy")
    reader.finish()
    weights.add(_VISION, "visual.class_embedding", hidden)
    weights.add(_VISION, "visual.positional_embedding", patches, hidden)
    _linear(weights, "patch_embedding", hidden, channels * patch * patch, bias=False)
    _norm(weights, "layernorm_pre", hidden)
    _norm(weights, "layernorm_post", hidden)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        _linear(weights, f"layers.{name}", hidden, hidden, copies=depth)
    _linear(weights, "layers.fc1", width, hidden, copies=depth)
    _linear(weights, "layers.fc2", hidden, width, copies=depth)
    _norm(weights, "layers.input_layernorm", hidden, copies=depth)
    _norm(weights, "layers.post_attention_layernorm", hidden, copies=depth)
    shuffled = int(hidden / shuffle**2)
    if shuffled != width:
        reader.refuse("pixel_shuffle_ratio", f"gives an adapter of {shuffled} inputs for {width} wide layers")
    _linear(weights, "adapter.fc1", into, width, bias=False)
    _linear(weights, "adapter.fc2", out, out, bias=False)
    _linear(weights, "projector", text_hidden, vision_out, bias=bias, part=_PROJECTOR)


def gemma4(reader: ConfigReader, weights: WeightsBuilder, text_hidden: int) -> None:
    """Gemma 4's tower and projector (transformers 5.23 models/gemma4/modeling_gemma4.py)."""
    hidden, depth = reader.integer("hidden_size"), reader.integer("num_hidden_layers")
    width, patch = reader.integer("intermediate_size"), reader.integer("patch_size")
    head_dim, heads = reader.integer("head_dim"), reader.integer("num_attention_heads")
    kv_heads = reader.integer("num_key_value_heads", heads)
    positions = reader.integer("position_embedding_size")
    standardize = reader.flag("standardize", False)
    reader.expect("attention_bias", False)
    reader.expect("use_clipped_linears", False)
    reader.ignore("default_output_length", "global_head_dim", "hidden_activation", "max_position_embeddings")
    reader.ignore("pooling_kernel_size", "rope_parameters")
    reader.finish()
    weights.add(_VISION, "visual.position_embedding_table", 2, positions, hidden)
    _linear(weights, "input_proj", hidden, 3 * patch * patch, bias=False)
    for name, size in (("q_proj", heads), ("k_proj", kv_heads), ("v_proj", kv_heads)):
        _linear(weights, f"layers.{name}", size * head_dim, hidden, bias=False, copies=depth)
    _linear(weights, "layers.o_proj", hidden, heads * head_dim, bias=False, copies=depth)
    for name in ("q_norm", "k_norm"):
        _norm(weights, f"layers.{name}", head_dim, bias=False, copies=depth)
    for name in ("gate_proj", "up_proj"):
        _linear(weights, f"layers.{name}", width, hidden, bias=False, copies=depth)
    _linear(weights, "layers.down_proj", hidden, width, bias=False, copies=depth)
    for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
        _norm(weights, f"layers.{name}_layernorm", hidden, bias=False, copies=depth)
    if standardize:
        _norm(weights, "std_bias", hidden, bias=False)
        _norm(weights, "std_scale", hidden, bias=False)
    _linear(weights, "projection", text_hidden, hidden, Shard.REPLICATED, bias=False, part=_PROJECTOR)


_K25_NAMES = {
    "hidden_size": "vt_hidden_size",
    "num_hidden_layers": "vt_num_hidden_layers",
    "intermediate_size": "vt_intermediate_size",
    "num_attention_heads": "vt_num_attention_heads",
}


def spelled_as_k25(reader: ConfigReader) -> ConfigReader:
    """Kimi-VL's MoonViT config under the names of K2.5's."""
    if "vt_hidden_size" in reader:
        return reader
    reader.ignore(*reader.fields)
    fields = {new: reader.fields[old] for old, new in _K25_NAMES.items() if old in reader.fields}
    for name in ("patch_size", "init_pos_emb_height", "init_pos_emb_width", "merge_kernel_size"):
        fields[name] = reader.fields.get(name)
    return reader.with_fields(fields)


def moonvit(reader: ConfigReader, weights: WeightsBuilder, text_hidden: int) -> None:
    """Kimi K2.5's and K3's MoonViT and patch merger (transformers 5.23 models/kimi_k25/modeling_kimi_k25.py;
    K3's differences: vllm 0.32.0 models/kimi_k25_vit.py, norm_type, qkv_hidden_size, patchmergerv2)."""
    hidden, depth = reader.integer("vt_hidden_size"), reader.integer("vt_num_hidden_layers")
    width, patch = reader.integer("vt_intermediate_size"), reader.integer("patch_size")
    inner = reader.integer("qkv_hidden_size", hidden)
    bias = reader.flag("attn_bias", True)
    linear_bias = reader.flag("linear_bias", True)
    patch_bias = reader.flag("patch_embed_proj_bias", True)
    rms = reader.text("norm_type", "layernorm") == "rmsnorm"
    height = reader.integer("init_pos_emb_height")
    columns = reader.integer("init_pos_emb_width")
    merged = hidden
    for size in reader.integers("merge_kernel_size"):
        merged *= size
    reader.expect("mm_hidden_size", hidden)
    reader.expect("text_hidden_size", text_hidden)
    reader.expect("pos_emb_type", "divided_fixed")
    reader.expect("mlp_type", "mlp2")
    reader.expect("norm_type", "layernorm", "rmsnorm")
    reader.expect("mm_projector_type", "patchmergerv2" if rms else "patchmerger")
    reader.ignore(
        "init_pos_emb_time", "vt_num_attention_heads", "video_attn_type", "merge_type", "projector_hidden_act"
    )
    reader.ignore("projector_ln_eps", "activation_func", "pos_emb_interpolation_mode")
    reader.finish()
    _linear(weights, "patch_embed", hidden, 3 * patch * patch, Shard.REPLICATED, bias=patch_bias)
    weights.add(_VISION, "visual.pos_emb", height, columns, hidden)
    _norm(weights, "layers.norm0", hidden, bias=not rms, copies=depth)
    _norm(weights, "layers.norm1", hidden, bias=not rms, copies=depth)
    _linear(weights, "layers.qkv", 3 * inner, hidden, bias=bias, copies=depth)
    _linear(weights, "layers.out", hidden, inner, bias=bias, copies=depth)
    _linear(weights, "layers.fc0", width, hidden, bias=linear_bias, copies=depth)
    _linear(weights, "layers.fc1", hidden, width, bias=linear_bias, copies=depth)
    _norm(weights, "final_layernorm", hidden, bias=not rms)
    for name, rows in (("linear_1", merged), ("linear_2", text_hidden)):
        _linear(weights, f"projector.{name}", rows, merged, Shard.REPLICATED, bias=not rms, part=_PROJECTOR)
    if rms:
        _norm(weights, "projector.post_norm", text_hidden, bias=False)
    else:
        _norm(weights, "projector.pre_norm", hidden)
