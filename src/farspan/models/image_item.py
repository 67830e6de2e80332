"""The largest image a model takes: what an engine pushes through the vision tower while it measures its peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ImageItem(NamedTuple):
    """One image of the largest size.

    Args:
        tokens: Tokens it becomes in the language model.
        patches: Patches the tower works on.
        pixels: Values of the input tensor, all channels.
        hidden_size: Width of the tower.
        intermediate_size: Width of its MLP.
        rotated: Whether it rotates queries and keys by position.
        one_by_one: Whether the tower takes one at a time, however many there are.
    """

    tokens: int
    patches: int
    pixels: int
    hidden_size: int
    intermediate_size: int
    rotated: bool
    one_by_one: bool = False


class _Shape(NamedTuple):
    """How the processor of one model family cuts its largest image: fields a config.json does not hold.

    Args:
        side: Pixels of one side where the tower's config has none.
        tiles: Tiles of the largest image, the thumbnail included.
        merge: Patches of a side that become one token.
        patches: Patches of the largest image where its size is not fixed; 0 for `tiles` of `side`.
        frames: Times each patch is repeated in time.
        one_by_one: Whether the tower takes one at a time.
    """

    side: int = 336
    tiles: int = 1
    merge: int = 1
    patches: int = 0
    frames: int = 1
    one_by_one: bool = False


# From the families' preprocessor_config.json and vLLM's get_max_image_tokens.
_SHAPES: dict[str, _Shape] = {
    "gemma3": _Shape(896, merge=4),
    # Its largest item is a video: 32 frames of 70 tokens, each with 8 more around it.
    "gemma4": _Shape(merge=3, patches=20160, one_by_one=True),
    "idefics3": _Shape(364, tiles=17, merge=3),
    "internvl": _Shape(448, tiles=13, merge=2),
    "internvl_chat": _Shape(448, tiles=13, merge=2),
    "kimi_vl": _Shape(merge=2, patches=4096),
    "kimi_k25": _Shape(merge=2, patches=16384),
    "llama4": _Shape(336, tiles=17, merge=2),
    "llava": _Shape(336),
    "llava_next": _Shape(336, tiles=5),
    "mistral3": _Shape(1540, merge=2),
    "pixtral": _Shape(1024),
    "qwen2_vl": _Shape(merge=2, patches=65536, frames=2),
    "qwen2_5_vl": _Shape(merge=2, patches=65536, frames=2),
    "qwen3_vl": _Shape(merge=2, patches=65536, frames=2),
    "qwen3_vl_moe": _Shape(merge=2, patches=65536, frames=2),
    "qwen3_5": _Shape(merge=2, patches=65536, frames=2),
    "qwen3_5_moe": _Shape(merge=2, patches=65536, frames=2),
    "glm4v": _Shape(merge=2, patches=24576, frames=2),
    "glm4v_moe": _Shape(merge=2, patches=24576, frames=2),
}
_CHANNELS = 3
_HIDDEN, _MLP_RATIO, _PATCH = 1152, 4, 14


def largest_image(config: Mapping[str, object]) -> ImageItem | None:
    """The largest image of a config.json's model; None for a model without a vision tower.

    A family that is not listed is taken to cut images as CLIP does: one tile of the config's image_size.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return None
    shape = _SHAPES.get(str(config.get("model_type", "")), _Shape())
    patch = _number(vision, "patch_size", "spatial_patch_size") or _PATCH
    side = _number(vision, "image_size") or shape.side
    merge = _number(vision, "spatial_merge_size") or shape.merge
    patches = shape.patches or shape.tiles * (side // patch) ** 2
    hidden = _number(vision, "embed_dim", "hidden_size") or _HIDDEN
    ratio = _number(vision, "mlp_ratio") or _MLP_RATIO
    return ImageItem(
        tokens=max(1, patches // merge**2),
        patches=patches,
        pixels=patches * _CHANNELS * patch**2 * shape.frames,
        hidden_size=hidden,
        intermediate_size=_number(vision, "intermediate_size") or hidden * ratio,
        rotated=shape.frames > 1,
        one_by_one=shape.one_by_one,
    )


def _number(fields: Mapping[str, object], *names: str) -> int:
    """The first of these fields that is a whole number above 0; 0 for none."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, int | float) and value >= 1:
            return int(value)
    return 0
