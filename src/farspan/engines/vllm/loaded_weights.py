"""What one rank's weights take once vLLM has loaded them: the checkpoint's bytes, and what loading adds."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from farspan.engines.vllm.adapters import Adapters, adapter_bytes
from farspan.engines.vllm.allocator_rounding import allocator_rounding
from farspan.models.spec import ModelSpec
from farspan.models.tensors import WeightPart, WeightTensor
from farspan.models.weights import offloadable_bytes, rank_weight_bytes, rope_table_bytes


class LoadedWeights(NamedTuple):
    """Bytes of one rank.

    Args:
        weights: All weights, copies included.
        rope: RoPE tables.
        rounding: What torch's allocator counts beyond the weights and tables themselves.
        absorbed: MLA's projections, kept a second time in the shape decoding multiplies with.
        adapters: Buffers of LoRA.
        offloadable: What --cpu-offload-gb may keep in the machine's memory.
    """

    weights: int
    rope: int
    rounding: int
    absorbed: int
    adapters: int
    offloadable: int


@lru_cache(maxsize=1024)
def loaded_weights(
    model: ModelSpec,
    tp: int,
    *,
    expert_parallel: bool,
    expert_replicas: int,
    adapters: Adapters | None = None,
    whole_encoder: bool = False,
    least_expert_width: int = 0,
    max_split_bytes: int = 0,
) -> LoadedWeights:
    """What a rank loads; vLLM keeps RoPE tables in the model's dtype.

    Args:
        model: The model, or one pipeline stage of it.
        tp: Tensor-parallel size.
        expert_parallel: Whether whole experts are shared out over the ranks.
        expert_replicas: Data-parallel engines that share the experts between them.
        adapters: What is asked of LoRA.
        whole_encoder: Whether every rank has the whole vision tower.
        least_expert_width: What a rank's share of an expert's width is padded to.
        max_split_bytes: Size from which torch does not split blocks while loading; 0 for none.
    """
    if tp > 1 and not expert_parallel:
        model = _with_padded_experts(model, tp, least_expert_width)
    parts = dict(rank_weight_bytes(model, tp).by_part)
    if whole_encoder:
        whole = rank_weight_bytes(model, 1).by_part
        parts |= {part: whole[part] for part in (WeightPart.VISION, WeightPart.PROJECTOR) if part in whole}
    split = parts.get(WeightPart.EXPERTS, 0)
    experts = _expert_bytes(model, tp, split, expert_parallel, expert_replicas)
    absorbed, buffers = _absorbed_bytes(model, tp), adapter_bytes(model, adapters, tp)
    total = sum(parts.values()) - split + experts + absorbed + buffers
    # Experts that another engine holds cannot be offloaded here.
    offloadable = max(0, offloadable_bytes(model, tp) - max(0, split - experts))
    rounding = allocator_rounding(model, tp, max_split_bytes)
    rope = rope_table_bytes(model, model.dtype_bytes)
    return LoadedWeights(total, rope, rounding, absorbed, buffers, offloadable)


def _with_padded_experts(model: ModelSpec, tp: int, least: int) -> ModelSpec:
    """The model with experts as wide as its ranks' shares are padded to (models/kimi_k3/nvidia/model.py: KimiMoE)."""
    widths = {layer.moe.intermediate_size for layer in model.layers if layer.moe}
    if not widths or min(widths) // tp >= least:
        return model
    return replace(model, weights=tuple(_padded(tensor, least * tp) for tensor in model.weights))


def _padded(tensor: WeightTensor, width: int) -> WeightTensor:
    if tensor.part is not WeightPart.EXPERTS or len(tensor.shape) != 3:
        return tensor
    count, rows, columns = tensor.shape
    down = tensor.name.endswith("down_proj")
    return replace(tensor, shape=(count, rows, width) if down else (count, 2 * width, columns))


def _expert_bytes(model: ModelSpec, tp: int, split: int, expert_parallel: bool, replicas: int) -> int:
    """Experts of one rank: an even share, or whole experts, a rank with one more counted."""
    if not expert_parallel or not split:
        return -(-split // replicas)
    ranks = tp * replicas
    count = max((layer.moe.num_experts for layer in model.layers if layer.moe), default=ranks)
    whole = rank_weight_bytes(model, 1).by_part[WeightPart.EXPERTS]
    return whole * -(-count // ranks) // count


def _absorbed_bytes(model: ModelSpec, tp: int) -> int:
    """W_UK and W_UV beside kv_b_proj (mla_attention.py: process_weights_after_loading)."""
    total = 0
    for layer in model.layers:
        if layer.latent is not None:
            latent = layer.latent
            heads = -(-layer.num_heads // tp)
            total += heads * latent.kv_lora_rank * (latent.nope_dim + latent.value_dim)
    return total * model.dtype_bytes
