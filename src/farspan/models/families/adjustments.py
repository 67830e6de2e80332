"""What is really different about a family: weights added once its layers have been read."""

from __future__ import annotations

from collections.abc import Callable

from farspan.models.families import blocks, gemma3n
from farspan.models.families.decoder import Decoder
from farspan.models.tensors import DTYPE_BYTES, WeightPart

_FP32 = DTYPE_BYTES["float32"]


def falcon(decoder: Decoder) -> None:
    """A second norm in each layer of the new decoder, or of one whose MLP does not run beside its attention."""
    new = decoder.reader.flag("new_decoder_architecture", False)
    if new or not decoder.reader.flag("parallel_attn", True):
        for index in range(decoder.num_layers):
            decoder.weights.at_layer(index).norm("layers.*.ln_mlp", decoder.hidden, bias=True)


def hyper_connections(decoder: Decoder) -> None:
    """Several residual streams mixed around attention and MLP (transformers 5.24 models/hy_v4, glm5_next)."""
    streams = decoder.reader.integer("hc_mult", 0, zero=True)
    if not streams:
        return
    hunyuan = decoder.reader.text("model_type", "").startswith("hy")
    mixes = 2 * streams if hunyuan else (2 + streams) * streams
    scales = 2 if hunyuan else 3
    for index in range(decoder.num_layers):
        weights = decoder.weights.at_layer(index)
        for name in ("attn_hc", "ffn_hc"):
            weights.add(
                WeightPart.NORM, f"layers.*.{name}.fn", mixes, streams * decoder.hidden, dtype_bytes=_FP32
            )
            weights.add(WeightPart.NORM, f"layers.*.{name}.base", mixes + scales, dtype_bytes=_FP32)
    if hunyuan:
        decoder.weights.add(
            WeightPart.NORM, "hc_head.fn", streams, streams * decoder.hidden, dtype_bytes=_FP32
        )
    decoder.reader.ignore("index_kpool")


def ernie_vl(decoder: Decoder) -> None:
    """ERNIE VL's vision experts, in the same layers as the text ones."""
    reader = decoder.reader
    count = reader.integer("vision_moe_num_experts", 0, zero=True)
    width = reader.integer("vision_moe_intermediate_size", 0, zero=True)
    for index, layer in enumerate(decoder.layers):
        if count and layer.moe is not None:
            weights = decoder.weights.at_layer(index)
            blocks.router(
                weights, count=count, hidden=decoder.hidden, name="layers.*.mlp.vision_gate", correction=True
            )
            name = "layers.*.mlp.vision_experts"
            blocks.experts(weights, count=count, hidden=decoder.hidden, width=width, name=name)


ADJUSTMENTS: dict[str, Callable[[Decoder], None]] = {
    "ernie_vl": ernie_vl,
    "falcon": falcon,
    "gemma3n": gemma3n.adjust,
    "hyper_connections": hyper_connections,
}
