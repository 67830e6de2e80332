"""Weight tensors: their shapes, how tensor parallelism divides them, how they are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "uint8": 1}


class WeightPart(StrEnum):
    """Which part of the model a weight belongs to."""

    EMBEDDING = "embedding"
    LM_HEAD = "lm_head"
    ATTENTION = "attention"
    INDEXER = "indexer"
    DENSE_MLP = "dense_mlp"
    ROUTER = "router"
    EXPERTS = "experts"
    SHARED_EXPERTS = "shared_experts"
    NORM = "norm"
    VISION = "vision"
    PROJECTOR = "projector"


class Shard(StrEnum):
    """How tensor parallelism divides a weight tensor."""

    REPLICATED = "replicated"  # every rank holds it whole
    SPLIT = "split"  # divided evenly
    KV_HEADS = "kv_heads"  # divided by KV head; copied once there are more ranks than heads
    VOCAB = "vocab"  # rows padded to a multiple of 64, then divided


class QuantSpec(NamedTuple):
    """A weight quantization: `bits` a weight, and one scale of `scale_bits` (zero point included) per `group`
    weights."""

    method: str  # "fp8", "mxfp4", "awq", ...
    bits: int
    group: int  # weights that share a scale; 0 for one scale a tensor or a channel (counted as nothing)
    scale_bits: int


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """Identical tensors of a model: `copies` of `shape`, divided by `shard`.

    `units` counts the KV heads for Shard.KV_HEADS. `quantizable`: a projection, which a quantization may
    reach; `quant`: the format the checkpoint keeps it in, None for the model's dtype.
    `dtype_bytes` is 0 for the model's dtype, else fixed (a float32 router bias).
    """

    name: str
    part: WeightPart
    shape: tuple[int, ...]
    shard: Shard = Shard.REPLICATED
    copies: int = 1
    units: int = 0
    quantizable: bool = False
    quant: QuantSpec | None = None
    dtype_bytes: int = 0

    @property
    def count(self) -> int:
        """Parameters in all copies."""
        total = self.copies
        for size in self.shape:
            total *= size
        return total

    @property
    def quantized(self) -> bool:
        """Whether the checkpoint keeps it in fewer bits."""
        return self.quant is not None


class RopeSpec(NamedTuple):
    """A cos/sin table an engine builds once: `positions` x `rotary_dim` values. `kind` is the rope type.

    Scout's is 10,485,760 x 128: 2.5 GiB in bf16 (vLLM), 5.0 GiB in float32 (SGLang on CUDA), on every rank.
    """

    rotary_dim: int
    positions: int
    kind: str = "default"
