"""One stage of a model shared out over a pipeline: a model of its own, with some of the layers."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from farspan.models.spec import ModelSpec
from farspan.models.tensors import WeightPart, WeightTensor

_FIRST = frozenset({WeightPart.EMBEDDING, WeightPart.VISION, WeightPart.PROJECTOR})


@lru_cache(maxsize=128)
def stage_models(model: ModelSpec, sizes: tuple[int, ...]) -> tuple[ModelSpec, ...]:
    """The stages of a model whose layers are shared out as `sizes`, the first stage first.

    A stage's share of the layers' weights is its share of the layers: where layers differ in size, an average. The
    first stage has the embedding and the vision tower, the last one the output head, tied or not.
    """
    stages, start = [], 0
    for number, size in enumerate(sizes):
        weights: list[WeightTensor] = []
        for tensor in model.weights:
            if tensor.part in _FIRST:
                tied = model.tie_word_embeddings and tensor.part is WeightPart.EMBEDDING
                held = number == 0 or (tied and number == len(sizes) - 1)
                weights += [tensor] if held else []
            elif tensor.part is WeightPart.LM_HEAD:
                weights += [tensor] if number == len(sizes) - 1 else []
            else:
                share = -(-tensor.copies * size // model.num_layers)
                weights.append(replace(tensor, copies=share))
        layers = model.layers[start : start + size]
        stages.append(replace(model, layers=layers, weights=tuple(weights)))
        start += size
    return tuple(stages)
