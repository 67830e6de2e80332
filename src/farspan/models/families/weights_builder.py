"""Collects a model's weight tensors while a family walks its layers."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from farspan.models.tensors import Shard, WeightPart, WeightTensor

if TYPE_CHECKING:
    from farspan.models.families.quantization import Quantization

_BLOCK = re.compile(r"(\.\d+)\.(self_attn|linear_attn|mlp|mixer)\.")


@dataclass
class WeightsBuilder:
    """The weights seen so far; equal tensors of different layers become one record with copies.

    Args:
        quantization: How the checkpoint is quantized, or None.
        prefix: Put before every name, as checkpoints do ("model.").
    """

    quantization: Quantization | None = None
    prefix: str = "model."

    def __post_init__(self) -> None:
        self._layers: dict[WeightTensor, list[int]] = {}
        self._layer = -1

    def at_layer(self, index: int) -> WeightsBuilder:
        """Say which layer the next `layers.*` names belong to."""
        self._layer = index
        return self

    def add(
        self,
        part: WeightPart,
        name: str,
        *shape: int,
        shard: Shard = Shard.REPLICATED,
        units: int = 0,
        quantizable: bool = False,
        copies: int = 1,
        dtype_bytes: int = 0,
    ) -> None:
        """Record one tensor; `*` in `name` stands for the current layer."""
        tensor = WeightTensor(
            name, part, shape, shard, units=units, quantizable=quantizable, dtype_bytes=dtype_bytes
        )
        self._layers.setdefault(tensor, []).extend([self._layer] * copies)

    def linear(
        self,
        part: WeightPart,
        name: str,
        rows: int,
        columns: int,
        shard: Shard = Shard.REPLICATED,
        *,
        units: int = 0,
        bias: bool = False,
        bias_split: bool = True,
        quantizable: bool = True,
        copies: int = 1,
    ) -> None:
        """Record a projection of `columns` inputs to `rows` outputs; row-parallel biases are not split."""
        self.add(part, name, rows, columns, shard=shard, units=units, quantizable=quantizable, copies=copies)
        if bias:
            bias_shard = shard if bias_split else Shard.REPLICATED
            self.add(part, f"{name}.bias", rows, shard=bias_shard, units=units, copies=copies)

    def norm(self, name: str, size: int, *, bias: bool = False, part: WeightPart = WeightPart.NORM) -> None:
        """Record a normalization's scale (and shift)."""
        self.add(part, name, size)
        if bias:
            self.add(part, f"{name}.bias", size)

    def embedding(self, vocab: int, hidden: int, *, tied: bool) -> None:
        """Record the embedding and, unless it is tied, the output head."""
        self.add(WeightPart.EMBEDDING, "embed_tokens", vocab, hidden, shard=Shard.VOCAB)
        if not tied:
            self.add(WeightPart.LM_HEAD, "lm_head", vocab, hidden, shard=Shard.VOCAB, quantizable=True)

    def build(self) -> tuple[WeightTensor, ...]:
        """Return the tensors, each marked with whether the quantization reaches it."""
        built = []
        for tensor, layers in self._layers.items():
            if not tensor.quantizable or self.quantization is None:
                built.append(replace(tensor, copies=len(layers)))
                continue
            experts = tensor.part is WeightPart.EXPERTS
            formats = Counter(
                self.quantization.spec_of(self._full_name(tensor.name, layer), experts) for layer in layers
            )
            built += [replace(tensor, copies=copies, quant=spec) for spec, copies in formats.items()]
        return tuple(built)

    def _full_name(self, name: str, layer: int) -> str:
        if name == "lm_head":
            return name
        full = self.prefix + name.replace("*", str(layer))
        if self.prefix == "backbone.":  # Nemotron-H calls the block of every layer its mixer
            return _BLOCK.sub(r"\1.mixer.", full)
        return full
