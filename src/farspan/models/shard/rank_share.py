"""What one rank of a deployment holds, held against the model that stands for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isqrt

from farspan.errors import UnsupportedError
from farspan.models.shard.division import VOCABULARY_ROWS, Division
from farspan.models.spec import IndexerSpec, LayerSpec, ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import WeightBreakdown, rank_weight_bytes

TOWERS = (WeightPart.VISION, WeightPart.PROJECTOR)
_VOCABULARY = (WeightPart.EMBEDDING, WeightPart.LM_HEAD)
# Scales are counted for a tensor's share of the weights, which rounds.
_ROUNDING = 0.001


def rank_weights(model: ModelSpec, division: Division) -> dict[WeightPart, int]:
    """Bytes of one rank's share by part, towers left out; the layers of `model` are those of the stage."""
    parts = dict(rank_weight_bytes(model, division.tp).by_part)
    for part in TOWERS:
        parts.pop(part, None)
    if division.ep > 1 and WeightPart.EXPERTS in parts:
        parts[WeightPart.EXPERTS] = _shared_out(model, division).by_part[WeightPart.EXPERTS]
    return parts


def _shared_out(model: ModelSpec, division: Division) -> WeightBreakdown:
    """The weights with a rank's number of experts, each divided over the ranks that share it."""
    weights = tuple(
        replace(tensor, shape=(tensor.shape[0] // division.ep, *tensor.shape[1:]))
        if tensor.part is WeightPart.EXPERTS
        else tensor
        for tensor in model.weights
    )
    return rank_weight_bytes(replace(model, weights=weights), division.expert_tp)


def check_share(cut: ModelSpec, shard: ModelSpec, division: Division) -> None:
    """Check that a model has the layers and the weights of one rank.

    Args:
        cut: The whole model, or the layers of one pipeline stage of it.
        shard: What stands for the rank.
        division: How the whole is divided.

    Raises:
        UnsupportedError: It has not; what differs is named.
    """
    if len(cut.layers) != len(shard.layers):
        raise UnsupportedError(f"it would have {len(shard.layers)} layers, not {len(cut.layers)}")
    for whole, part in zip(cut.layers, shard.layers, strict=True):
        for what, wanted, got in _compare_layers(whole, part, division):
            if wanted != got:
                raise UnsupportedError(
                    f"its config cannot say it: {what} of layer {whole.index} would be {_write(got)}, a rank's are "
                    f"{_write(wanted)}"
                )
    wanted_parts, parts = rank_weights(cut, division), dict(rank_weight_bytes(shard).by_part)
    for weight_part in {*wanted_parts, *parts}:
        wanted_bytes, got_bytes = wanted_parts.get(weight_part, 0), parts.get(weight_part, 0)
        if weight_part is WeightPart.ROUTER:
            wanted_bytes, got_bytes = wanted_bytes - routing_tables(cut), got_bytes - routing_tables(shard)
        if abs(wanted_bytes - got_bytes) > _tolerance(weight_part, wanted_bytes, shard, division):
            raise UnsupportedError(
                f"its {weight_part.value} weights would take {got_bytes:,} bytes, a rank's take {wanted_bytes:,}"
            )


def routing_tables(model: ModelSpec) -> int:
    """Bytes of tables that send a word to its experts: a row a word, whole on every rank of a deployment."""
    return sum(
        tensor.count * tensor.dtype_bytes
        for tensor in model.weights
        if tensor.part is WeightPart.ROUTER and tensor.shape[:1] == (model.vocab_size,)
    )


def _write(value: object) -> str:
    return f"{value:,.10g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _tolerance(part: WeightPart, wanted: int, shard: ModelSpec, division: Division) -> float:
    if part in _VOCABULARY:
        copies = sum(tensor.copies for tensor in shard.weights if tensor.part is part)
        return VOCABULARY_ROWS * shard.hidden_size * shard.dtype_bytes * max(1, copies) + wanted * _ROUNDING
    if part is WeightPart.NORM or (part is WeightPart.ROUTER and division.ep > 1):
        # Norms over all heads are counted whole on every rank; a router of fewer experts has fewer rows.
        return float("inf")
    return wanted * _ROUNDING


def _compare_layers(
    whole: LayerSpec, part: LayerSpec, division: Division
) -> Iterator[tuple[str, object, object]]:
    tp = division.tp
    yield "the attention", whole.attention.value, part.attention.value
    if not whole.attention.keeps_no_tokens:
        yield "query heads", whole.num_heads / tp, part.num_heads
        yield "KV heads", whole.kv_heads_per_rank(tp), part.kv_heads_per_rank(1)
        yield "key size", whole.head_dim, part.head_dim
        yield "value size", whole.value_head_dim, part.value_head_dim
        yield "the window", whole.window, part.window
        yield "RoPE", whole.rope, part.rope
        yield "the latent", whole.latent, part.latent
        yield "the indexer", _indexer_share(whole.indexer, tp), part.indexer
        yield "tokens an entry", whole.tokens_per_entry, part.tokens_per_entry
    yield "bytes of recurrent state", whole.state_bytes(tp), part.state_bytes(1)
    shared = whole.shares_kv_with
    yield "the shared layer", None if shared is None else shared - whole.index, _distance(part)
    yield "MLP width", whole.intermediate_size / tp, part.intermediate_size
    yield "whether it has experts", whole.moe is not None, part.moe is not None
    if whole.moe is not None and part.moe is not None:
        yield "experts", whole.moe.num_experts / division.ep, part.moe.num_experts
        yield "expert width", whole.moe.intermediate_size / division.expert_tp, part.moe.intermediate_size
        yield (
            "width of the shared experts",
            whole.moe.shared_intermediate_size / tp,
            part.moe.shared_intermediate_size,
        )


def _indexer_share(indexer: IndexerSpec | None, tp: int) -> IndexerSpec | None:
    if indexer is None or not indexer.divided:
        return indexer
    return indexer._replace(num_heads=max(1, indexer.num_heads // tp))


def _distance(layer: LayerSpec) -> int | None:
    return None if layer.shares_kv_with is None else layer.shares_kv_with - layer.index


def check_blocks(shard: ModelSpec) -> None:
    """Check that each divided width is whole blocks of the weights' scales, as the engines' kernels want it.

    Raises:
        UnsupportedError: One is not; it is named. MXFP4 experts are padded instead.
    """
    blocks: dict[WeightPart, int] = {}
    for tensor in shard.weights:
        if tensor.quant is not None and tensor.quant.group and tensor.quant.method != "mxfp4":
            root = isqrt(tensor.quant.group)
            square = tensor.quant.bits == 8 and root * root == tensor.quant.group
            blocks[tensor.part] = max(blocks.get(tensor.part, 0), root if square else tensor.quant.group)
    for layer in shard.layers:
        widths = [("MLP width", WeightPart.DENSE_MLP, layer.intermediate_size)]
        if layer.moe is not None:
            widths += [
                ("expert width", WeightPart.EXPERTS, layer.moe.intermediate_size),
                (
                    "width of the shared experts",
                    WeightPart.SHARED_EXPERTS,
                    layer.moe.shared_intermediate_size,
                ),
            ]
        if not layer.attention.keeps_no_tokens:
            values = layer.latent.value_dim if layer.latent else layer.value_head_dim
            widths.append(("width of all heads", WeightPart.ATTENTION, layer.num_heads * values))
        for what, part, width in widths:
            if part in blocks and width % blocks[part]:
                raise UnsupportedError(
                    f"a rank's {what} is {width}, no multiple of the {blocks[part]} weights that share a scale"
                )
