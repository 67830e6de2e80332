"""Recurrent states in another type than the config's, as engines keep them."""

from __future__ import annotations

from dataclasses import replace

from farspan.models.spec import CONVOLUTION, LayerSpec, ModelSpec
from farspan.models.tensors import DTYPE_BYTES


def with_recurrent_dtype(model: ModelSpec, dtype: str) -> ModelSpec:
    """The model with the state of each recurrent layer in that type; its convolutions keep their own."""
    size = DTYPE_BYTES[dtype]
    states = (state for layer in model.layers for state in layer.states if state.name != CONVOLUTION)
    if all(state.dtype_bytes == size for state in states):
        return model
    return replace(model, layers=tuple(_with_size(layer, size) for layer in model.layers))


def _with_size(layer: LayerSpec, dtype_bytes: int) -> LayerSpec:
    states = tuple(
        state if state.name == CONVOLUTION else state._replace(dtype_bytes=dtype_bytes)
        for state in layer.states
    )
    return replace(layer, states=states)
