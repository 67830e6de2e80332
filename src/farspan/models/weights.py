"""Weight bytes by part and by tensor-parallel rank, and the parameters a token makes work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from farspan.models.spec import ModelSpec
from farspan.models.tensors import QuantSpec, Shard, WeightPart, WeightTensor

_VOCAB_PADDING = (
    64  # vllm 0.32.0 layers/vocab_parallel_embedding.py: DEFAULT_VOCAB_PADDING_SIZE; SGLang's too
)


class WeightBreakdown(NamedTuple):
    """Weight bytes of one rank, or parameters, by part; `total` sums them."""

    by_part: Mapping[WeightPart, int]
    total: int


def _rank_elements(tensor: WeightTensor, tp: int) -> int:
    """Elements of all copies on one rank."""
    experts = tensor.part is WeightPart.EXPERTS and tensor.shard is not Shard.REPLICATED
    if experts and tensor.quant is not None and tensor.quant.method == "mxfp4":
        return _padded_experts(tensor, tp)
    if tensor.shard is Shard.REPLICATED or (tp == 1 and tensor.shard is not Shard.VOCAB):
        return tensor.count
    if tensor.shard is Shard.VOCAB:
        rows = -(-tensor.shape[0] // _VOCAB_PADDING) * _VOCAB_PADDING
        return tensor.count // tensor.shape[0] * -(-rows // tp)
    if tensor.shard is Shard.KV_HEADS:
        return tensor.count // tensor.units * max(1, tensor.units // tp)
    return -(-tensor.count // tp)


def _padded_experts(tensor: WeightTensor, tp: int) -> int:
    """Elements of MXFP4 experts on one rank as kernels lay them out: the hidden size rounded up to 256, a rank's share
    of the width to 128 (vllm 0.33.0 layers/fused_moe/oracle/mxfp4.py: mxfp4_round_up_hidden_size_and_intermediate_size;
    sglang 0.5.23 srt/layers/quantization/mxfp4.py). gpt-oss's 2880 becomes 3072."""
    if len(tensor.shape) != 3:
        return -(-tensor.count // tp)
    experts, rows, columns = tensor.shape
    down = tensor.name.endswith("down_proj")
    hidden, inner = (rows, columns) if down else (columns, rows)
    sides = 1 if down else 2  # gate and up
    width = _round_up(-(-inner // sides // tp), 128)
    return tensor.copies * experts * _round_up(hidden, 256) * sides * width


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def tensor_bytes(tensor: WeightTensor, elements: int, dtype_bytes: int) -> int:
    """Bytes of `elements` elements of a tensor, scales included where it is quantized."""
    if tensor.quant is not None:
        scales = elements * tensor.quant.scale_bits // tensor.quant.group if tensor.quant.group else 0
        return (elements * tensor.quant.bits + scales) // 8
    return elements * (tensor.dtype_bytes or dtype_bytes)


def copy_bytes(tensor: WeightTensor, tp: int, dtype_bytes: int) -> int:
    """Bytes of one copy of a tensor on one rank."""
    return tensor_bytes(tensor, _rank_elements(tensor, tp) // tensor.copies, dtype_bytes)


def _sum(parts: Iterable[tuple[WeightPart, int]]) -> WeightBreakdown:
    by_part: dict[WeightPart, int] = {}
    for part, amount in parts:
        by_part[part] = by_part.get(part, 0) + amount
    return WeightBreakdown(MappingProxyType(by_part), sum(by_part.values()))


@lru_cache(maxsize=256)
def rank_weight_bytes(model: ModelSpec, tp: int = 1) -> WeightBreakdown:
    """Bytes of weights one tensor-parallel rank loads. RoPE tables are not weights: see `rope_table_bytes`.

    KV projections are copied once there are more ranks than KV heads; the vocabulary is padded to 64 rows.
    """
    return _sum(
        [
            (
                tensor.part,
                tensor_bytes(tensor, _rank_elements(tensor, tp), model.dtype_bytes),
            )
            for tensor in model.weights
        ]
    )


@lru_cache(maxsize=64)
def checkpoint_bytes(model: ModelSpec) -> int:
    """Bytes of the weights as the checkpoint's files hold them, before any engine pads or divides them."""
    return sum(tensor_bytes(tensor, tensor.count, model.dtype_bytes) for tensor in model.weights)


OUTSIDE_LAYERS = (WeightPart.EMBEDDING, WeightPart.LM_HEAD, WeightPart.VISION, WeightPart.PROJECTOR)


@lru_cache(maxsize=256)
def offloadable_bytes(model: ModelSpec, tp: int) -> int:
    """Weights of one rank's decoder layers: the only ones an engine's `--cpu-offload-gb` reaches, since it wraps
    the layers as they are made (vllm models/utils.py, sglang srt/utils/common.py: make_layers)."""
    parts = rank_weight_bytes(model, tp).by_part
    return sum(size for part, size in parts.items() if part not in OUTSIDE_LAYERS)


@lru_cache(maxsize=64)
def total_parameters(model: ModelSpec) -> WeightBreakdown:
    """Parameters of the checkpoint, by part; a tied head is counted once."""
    return _sum([(tensor.part, tensor.count) for tensor in model.weights])


@lru_cache(maxsize=64)
def active_parameters(model: ModelSpec) -> WeightBreakdown:
    """Parameters that work on each token: `top_k` of the routed experts, everything else once.

    The embedding is a look-up and is left out (a tied one serves as the head); vision works on images only.
    """
    moe = next((layer.moe for layer in model.layers if layer.moe), None)
    parts = []
    for tensor in model.weights:
        if tensor.part in (WeightPart.VISION, WeightPart.PROJECTOR):
            continue
        if tensor.part is WeightPart.EMBEDDING and not (model.tie_word_embeddings and tensor.copies == 1):
            continue
        count = tensor.count
        if tensor.part is WeightPart.EXPERTS and moe is not None and tensor.shape[0] == moe.num_experts:
            count = count * moe.top_k // moe.num_experts
        parts.append((tensor.part, count))
    return _sum(parts)


def rope_table_bytes(model: ModelSpec, value_bytes: int) -> int:
    """Bytes of the cos/sin tables on each rank, at `value_bytes` a value (2 in vLLM, 4 in SGLang on CUDA)."""
    return sum(rope.positions * rope.rotary_dim for rope in model.ropes) * value_bytes


@lru_cache(maxsize=64)
def with_fp8_weights(model: ModelSpec) -> ModelSpec:
    """The model as if every projection were kept in FP8 with one float32 scale per 128 x 128 weights."""
    fp8 = QuantSpec("fp8", 8, 128 * 128, 32)
    return replace(
        model,
        weights=tuple(
            replace(
                tensor, quant=fp8 if tensor.quantizable and tensor.part is not WeightPart.LM_HEAD else None
            )
            for tensor in model.weights
        ),
        quantization=fp8,
        notes=(*model.notes, "planned with fp8 weights: give the engine a checkpoint kept so"),
    )
