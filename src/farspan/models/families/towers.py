"""Vision and audio encoders: one reader of transformers' ViT layouts, and what joins them to the language model.

Engines shard encoders with the language model unless told otherwise. Nothing of an encoder is kept with the context,
so a field that none of these reads changes no cache and is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.tensors import Shard, WeightPart

_VISION, _PROJECTOR = WeightPart.VISION, WeightPart.PROJECTOR


@dataclass(frozen=True, slots=True)
class Tower:
    """How one kind of encoder is built.

    Args:
        bias: Whether attention projections have biases; the field `attention_bias` decides where the config has it.
        mlp_bias: Whether the MLP has.
        patch_bias: Whether the patch embedding has.
        gated: Whether the MLP has a gate.
        norm_bias: Whether norms have shifts.
        positions: Rows of the position table: "grid", "grid + class", "listed" (a field says), or "" for none.
        temporal: Whether a patch spans `temporal_patch_size` frames.
        pre_norm: Whether a norm stands before the layers.
        post_norm: Whether one stands after them.
        head: Whether the pooling head is built unless `vision_use_head` says no.
        scales: Whether each layer has two layer scales.
        qk_norm: Whether queries and keys are normed.
        joins: How it is joined to the language model; see `_JOINS`.
    """

    bias: bool = True
    mlp_bias: bool = True
    patch_bias: bool = True
    gated: bool = False
    norm_bias: bool = True
    positions: str = "grid"
    temporal: bool = False
    pre_norm: bool = False
    post_norm: bool = False
    head: bool = False
    scales: bool = False
    qk_norm: bool = False
    joins: str = ""


_CLIP = Tower(patch_bias=False, positions="grid + class", pre_norm=True, post_norm=True)
_SIGLIP = Tower(post_norm=True, head=True)
_PIXTRAL = Tower(
    bias=False, mlp_bias=False, patch_bias=False, gated=True, norm_bias=False, positions="", pre_norm=True
)
_QWEN = Tower(patch_bias=False, positions="", temporal=True, joins="merger")
_GLM = Tower(
    bias=False,
    mlp_bias=False,
    gated=True,
    norm_bias=False,
    temporal=True,
    pre_norm=True,
    post_norm=True,
    joins="glm",
)
_QWEN25 = Tower(
    patch_bias=False, gated=True, norm_bias=False, positions="", temporal=True, joins="merger rms"
)
TOWERS: dict[str, Tower] = {
    "clip_vision_model": _CLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2_vision_model": Tower(post_norm=True, head=True, positions="listed"),
    "idefics3_vision": Tower(post_norm=True),
    "pixtral": _PIXTRAL,
    "qwen2_vl_vision": _QWEN,
    "qwen2_vl": _QWEN,
    "qwen2_5_vl_vision": _QWEN25,
    "qwen2_5_vl": _QWEN25,
    "qwen3_vl_vision": Tower(positions="listed", temporal=True, joins="merger"),
    "qwen3_vl": Tower(positions="listed", temporal=True, joins="merger"),
    "qwen3_vl_moe": Tower(positions="listed", temporal=True, joins="merger"),
    "glm4v_vision": _GLM,
    "glm4v_moe_vision": _GLM,
    "glm5_next_vision": Tower(
        gated=True, norm_bias=False, positions="", temporal=True, post_norm=True, qk_norm=True, joins="glm"
    ),
    "glm_ocr_vision": Tower(
        gated=True, norm_bias=False, positions="", temporal=True, post_norm=True, qk_norm=True, joins="glm"
    ),
    "internvl_vision": Tower(positions="grid + class", scales=True),
    "intern_vit_6b": Tower(positions="grid + class", scales=True),
    "step3p5_vision": Tower(patch_bias=False, pre_norm=True, scales=True, joins="step"),
    "minimax_m3_vl_vision": Tower(
        patch_bias=False, positions="", temporal=True, pre_norm=True, joins="minimax"
    ),
    "paddleocr_vl": Tower(post_norm=True, head=True),
    "exaone4_5_vision": _QWEN25,
    "ernie4_5_vl_moe_vision": Tower(patch_bias=False, positions="", post_norm=True, joins="ernie"),
}


@dataclass(frozen=True, slots=True)
class Built:
    """What the projector must know of an encoder that was read."""

    hidden: int
    width: int
    merge: int
    out: int
    deepstack: int


def _linear(
    weights: WeightsBuilder,
    name: str,
    rows: int,
    columns: int,
    *,
    bias: bool,
    copies: int = 1,
    part: WeightPart = _VISION,
    shard: Shard = Shard.SPLIT,
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


def _norm(
    weights: WeightsBuilder, name: str, size: int, *, bias: bool, copies: int = 1, part: WeightPart = _VISION
) -> None:
    weights.add(part, f"visual.{name}", size, copies=copies)
    if bias:
        weights.add(part, f"visual.{name}.bias", size, copies=copies)


def _side(reader: ConfigReader, name: str, default: int) -> int:
    """A size that may be given as [height, width]."""
    value = reader.fields.get(name)
    if isinstance(value, list) and value:
        return int(value[0])
    return reader.integer(name, default)


def read_tower(reader: ConfigReader, weights: WeightsBuilder, kind: str, text_hidden: int) -> Built:
    """Record an encoder's weights; `kind` is its `model_type`."""
    tower = TOWERS.get(kind, Tower())
    hidden = reader.integer("embed_dim" if "embed_dim" in reader else "hidden_size")
    depth = reader.integer("depth" if "depth" in reader else "num_hidden_layers")
    ratio = reader.number("mlp_ratio", 4.0)
    width = reader.integer("intermediate_size", int(hidden * ratio))
    out = reader.integer("out_hidden_size", 0) or text_hidden
    layer_width = width
    if kind.startswith("glm4v"):
        layer_width = out  # the config's width is the merger's
    patch = _side(reader, "patch_size", 14)
    channels = reader.integer("in_channels" if "in_channels" in reader else "num_channels", 3)
    frames = reader.integer("temporal_patch_size", 1) if tower.temporal else 1
    merge = reader.integer("spatial_merge_size", 1)
    bias = reader.flag("attention_bias", tower.bias) if kind != "glm4v_moe_vision" else tower.bias
    _linear(
        weights,
        "patch_embed",
        hidden,
        channels * frames * patch * patch,
        bias=tower.patch_bias,
        shard=Shard.REPLICATED,
    )
    if tower.positions == "listed":
        names = ("num_position_embeddings", "num_patches")
        rows = reader.integer(next((name for name in names if name in reader), names[0]), 256)
        weights.add(_VISION, "visual.pos_embed", rows, hidden)
    elif tower.positions:
        rows = (_side(reader, "image_size", 224) // patch) ** 2
        weights.add(_VISION, "visual.pos_embed", rows + (tower.positions == "grid + class"), hidden)
        if tower.positions == "grid + class":
            weights.add(_VISION, "visual.class_embedding", hidden)
    for name, present in (("pre_norm", tower.pre_norm), ("post_norm", tower.post_norm)):
        if present:
            _norm(weights, name, hidden, bias=tower.norm_bias)
    _norm(weights, "blocks.norm1", hidden, bias=tower.norm_bias, copies=depth)
    _norm(weights, "blocks.norm2", hidden, bias=tower.norm_bias, copies=depth)
    heads = reader.integer("num_heads" if "num_heads" in reader else "num_attention_heads", 1)
    keys = reader.integer("num_key_value_heads", heads)
    _linear(weights, "blocks.qkv", hidden + 2 * keys * (hidden // heads), hidden, bias=bias, copies=depth)
    _linear(weights, "blocks.proj", hidden, hidden, bias=bias or kind == "internvl_vision", copies=depth)
    for name in ("gate", "up") if tower.gated else ("fc1",):
        _linear(weights, f"blocks.{name}", layer_width, hidden, bias=tower.mlp_bias, copies=depth)
    _linear(weights, "blocks.fc2", hidden, layer_width, bias=tower.mlp_bias, copies=depth)
    if tower.scales:
        _norm(weights, "blocks.scales", 2 * hidden, bias=False, copies=depth)
    if tower.qk_norm:
        _norm(weights, "blocks.qk_norm", 2 * hidden // heads, bias=False, copies=depth)
    if tower.head and reader.flag("vision_use_head", True):
        _linear(weights, "head.attention", 4 * hidden, hidden, bias=True)
        _norm(weights, "head.probe", hidden, bias=False)
        _norm(weights, "head.norm", hidden, bias=True)
        _linear(weights, "head.fc1", width, hidden, bias=True)
        _linear(weights, "head.fc2", hidden, width, bias=True)
    deepstack = len(reader.integers("deepstack_visual_indexes", []))
    wide = reader.integer("projection_intermediate_size", width)
    built = Built(hidden, wide, merge, out, deepstack)
    if tower.joins:
        _JOINS[tower.joins](reader, weights, built, text_hidden)
    reader.ignore(*reader.fields)
    return built


def join(kind: str, reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    """Record the projector that the outermost config describes; `kind` is one of the declared ones."""
    _JOINS[kind](reader, weights, built, text_hidden)


def _llava(reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    bias = reader.flag("multimodal_projector_bias", True)
    layers = reader.fields.get("vision_feature_layer")
    inputs = built.hidden * (len(layers) if isinstance(layers, list) else 1)
    _linear(weights, "projector.linear_1", text_hidden, inputs, bias=bias, part=_PROJECTOR)
    _linear(weights, "projector.linear_2", text_hidden, text_hidden, bias=bias, part=_PROJECTOR)
    if "image_grid_pinpoints" in reader:
        weights.add(_PROJECTOR, "visual.image_newline", text_hidden)


def _gemma3(reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    reader.ignore("mm_tokens_per_image")
    _linear(weights, "projector", built.hidden, text_hidden, bias=False, part=_PROJECTOR)
    _norm(weights, "projector.norm", built.hidden, bias=False, part=_PROJECTOR)


def _mistral3(reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    merge = reader.integer("spatial_merge_size", 2)
    bias = reader.flag("multimodal_projector_bias", False)
    _norm(weights, "projector.norm", built.hidden, bias=False, part=_PROJECTOR)
    _linear(weights, "projector.merge", built.hidden, built.hidden * merge**2, bias=False, part=_PROJECTOR)
    _linear(weights, "projector.linear_1", text_hidden, built.hidden, bias=bias, part=_PROJECTOR)
    _linear(weights, "projector.linear_2", text_hidden, text_hidden, bias=bias, part=_PROJECTOR)


def _merger(
    reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int, *, norm_bias: bool = True
) -> None:
    merged = built.hidden * built.merge**2
    out = (
        reader.integer("out_hidden_size", text_hidden)
        if "embed_dim" not in reader
        else reader.integer("hidden_size")
    )
    for name, size in (
        ("merger", built.hidden),
        *((f"deepstack.{i}", merged) for i in range(built.deepstack)),
    ):
        _norm(weights, f"{name}.norm", size, bias=norm_bias)
        _linear(weights, f"{name}.fc1", merged, merged, bias=True, part=_PROJECTOR)
        _linear(weights, f"{name}.fc2", out, merged, bias=True, part=_PROJECTOR)


def _merger_rms(reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    _merger(reader, weights, built, text_hidden, norm_bias=False)


def _glm(reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    out = reader.integer("out_hidden_size", text_hidden)
    _linear(weights, "downsample", out, built.hidden * built.merge**2, bias=True, part=_PROJECTOR)
    _linear(weights, "merger.proj", out, out, bias=False, part=_PROJECTOR)
    _norm(weights, "merger.norm", out, bias=True, part=_PROJECTOR)
    for name in ("gate", "up"):
        _linear(weights, f"merger.{name}", built.width, out, bias=False, part=_PROJECTOR)
    _linear(weights, "merger.down", out, built.width, bias=False, part=_PROJECTOR)


def _internvl(reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    inputs = int(built.hidden / reader.number("downsample_ratio", 0.5) ** 2)
    _norm(weights, "projector.norm", inputs, bias=True, part=_PROJECTOR)
    _linear(weights, "projector.linear_1", text_hidden, inputs, bias=True, part=_PROJECTOR)
    _linear(weights, "projector.linear_2", text_hidden, text_hidden, bias=True, part=_PROJECTOR)


def _step(_: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    hidden = built.hidden
    _linear(weights, "downsampler1", 2 * hidden, 9 * hidden, bias=True)
    _linear(weights, "downsampler2", 4 * hidden, 18 * hidden, bias=True)
    _linear(weights, "projector", text_hidden, 4 * hidden, bias=False, part=_PROJECTOR)


def _minimax(_: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    _linear(weights, "projector.linear_1", text_hidden, built.hidden, bias=True, part=_PROJECTOR)
    _linear(
        weights, "projector.merge_1", text_hidden, text_hidden * built.merge**2, bias=True, part=_PROJECTOR
    )
    for name in ("projector.linear_2", "projector.merge_2"):
        _linear(weights, name, text_hidden, text_hidden, bias=True, part=_PROJECTOR)


def _cohere(reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    """Cohere's: pixels shuffled into a gated projection of the width the config gives."""
    inputs = built.hidden * reader.integer("downsample_factor", 2) ** 2
    width = reader.integer("alignment_intermediate_size", 36864)
    _linear(weights, "projector.linear_1", width, inputs, bias=True, part=_PROJECTOR)
    _linear(weights, "projector.linear_2", text_hidden, width // 2, bias=True, part=_PROJECTOR)


def _ernie(_: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    """ERNIE VL's resampler: patches joined in space, then in time, then projected."""
    wide = built.hidden * built.merge**2
    for name, inputs in (("spatial", wide), ("temporal", 2 * wide)):
        _linear(weights, f"resampler.{name}_1", wide, inputs, bias=True, part=_PROJECTOR)
        _linear(weights, f"resampler.{name}_2", wide, wide, bias=True, part=_PROJECTOR)
        _norm(weights, f"resampler.{name}_norm", wide, bias=True, part=_PROJECTOR)
    _linear(weights, "resampler.mlp", text_hidden, wide, bias=True, part=_PROJECTOR)
    _norm(weights, "resampler.after_norm", text_hidden, bias=False, part=_PROJECTOR)


def _linear_only(_: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    _linear(weights, "projector", text_hidden, built.hidden, bias=True, part=_PROJECTOR)


def _unshuffled(reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    """LFM2-VL: pixels unshuffled, a norm, two projections."""
    inputs = built.hidden * reader.integer("downsample_factor", 2) ** 2
    width = reader.integer("projector_hidden_size", text_hidden)
    if reader.flag("projector_use_layernorm", True):
        _norm(weights, "projector.norm", inputs, bias=True, part=_PROJECTOR)
    _linear(weights, "projector.linear_1", width, inputs, bias=True, part=_PROJECTOR)
    _linear(weights, "projector.linear_2", text_hidden, width, bias=True, part=_PROJECTOR)


def _shuffled(reader: ConfigReader, weights: WeightsBuilder, built: Built, text_hidden: int) -> None:
    """Idefics 3 and SmolVLM: pixels shuffled, one projection."""
    inputs = built.hidden * reader.integer("scale_factor", 2) ** 2
    _linear(weights, "projector", text_hidden, inputs, bias=False, part=_PROJECTOR)


_JOINS: dict[str, Callable[[ConfigReader, WeightsBuilder, Built, int], None]] = {
    "llava": _llava,
    "gemma3": _gemma3,
    "mistral3": _mistral3,
    "merger": _merger,
    "merger rms": _merger_rms,
    "glm": _glm,
    "internvl": _internvl,
    "step": _step,
    "minimax": _minimax,
    "ernie": _ernie,
    "linear": _linear_only,
    "cohere": _cohere,
    "unshuffled": _unshuffled,
    "shuffled": _shuffled,
}


def read_audio_tower(reader: ConfigReader, weights: WeightsBuilder, text_hidden: int, projector: str) -> None:
    """A Whisper encoder and what joins it: "linear" (one projection), "stacked" (frames stacked, two projections) or
    "own" (the encoder's own output projection)."""
    hidden = reader.integer("d_model" if reader.fields.get("d_model") else "hidden_size")
    depth = reader.integer("encoder_layers" if "encoder_layers" in reader else "num_hidden_layers")
    width = reader.integer("encoder_ffn_dim" if "encoder_ffn_dim" in reader else "intermediate_size")
    bins, positions = reader.integer("num_mel_bins", 128), reader.integer("max_source_positions", 1500)
    narrow = reader.integer("downsample_hidden_size", 0)
    if narrow:
        _linear(weights, "audio.conv1", narrow, 9, bias=True)
        _linear(weights, "audio.conv2", narrow, 9 * narrow, bias=True, copies=2)
        _linear(weights, "audio.conv_out", hidden, narrow * (bins // 8), bias=False)
    else:
        _linear(weights, "audio.conv1", hidden, 3 * bins, bias=True)
        _linear(weights, "audio.conv2", hidden, 3 * hidden, bias=True)
        if projector != "own":
            weights.add(_VISION, "visual.audio.positions", positions, hidden)
    _linear(weights, "audio.layers.qkv", 3 * hidden, hidden, bias=True, copies=depth)
    _linear(weights, "audio.layers.out", hidden, hidden, bias=True, copies=depth)
    _linear(weights, "audio.layers.fc1", width, hidden, bias=True, copies=depth)
    _linear(weights, "audio.layers.fc2", hidden, width, bias=True, copies=depth)
    _norm(weights, "audio.layers.norms", 2 * hidden, bias=True, copies=depth)
    _norm(weights, "audio.norm", hidden, bias=True)
    out = reader.integer("output_dim", text_hidden)
    if projector == "stacked":
        _linear(weights, "audio.projector_1", text_hidden, width, bias=False, part=_PROJECTOR)
        _linear(weights, "audio.projector_2", text_hidden, text_hidden, bias=False, part=_PROJECTOR)
    else:
        if narrow:
            _linear(weights, "audio.projector_1", hidden, hidden, bias=True, part=_PROJECTOR)
        _linear(weights, "audio.projector", out, hidden, bias=True, part=_PROJECTOR)
    reader.ignore(*reader.fields)
