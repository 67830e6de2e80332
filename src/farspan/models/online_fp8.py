"""A model whose weights an engine keeps in 8 bits where its config says nothing of it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from farspan.models.spec import ModelSpec
from farspan.models.tensors import QuantSpec, WeightTensor
from farspan.models.weights import OUTSIDE_LAYERS


@lru_cache(maxsize=64)
def with_online_fp8(model: ModelSpec, method: str = "fp8") -> ModelSpec:
    """The projections of its layers in 8 bits with one scale a tensor or channel, everything else as it is.

    vllm layers/quantization/fp8.py: Fp8OnlineLinearMethod; sglang srt/layers/quantization/fp8.py and w8a8_fp8.py, for
    checkpoints that are not FP8.
    """
    fp8 = QuantSpec(method, 8, 0, 0)
    weights = tuple(
        replace(tensor, quant=fp8 if tensor.quantizable and in_layers(tensor) else tensor.quant)
        for tensor in model.weights
    )
    return replace(model, weights=weights, quantization=fp8)


def in_layers(tensor: WeightTensor) -> bool:
    """Whether a tensor is one of the decoder layers'."""
    return tensor.part not in OUTSIDE_LAYERS
