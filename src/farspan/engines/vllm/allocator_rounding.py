"""What torch's allocator counts beyond a weight's own bytes: the end of a block that it does not split off.

A request of 10 MiB or more gets a segment of whole 2 MiB. What is left of it is split off for later requests when it
is more than 1 MiB, and the segment is below `max_split_size`; otherwise it is counted as allocated (torch
c10/cuda/CUDACachingAllocator.cpp: alloc_block, get_free_block, should_split).
"""

from __future__ import annotations

from collections import Counter

from farspan.models.spec import ModelSpec
from farspan.models.tensors import WeightPart, WeightTensor
from farspan.models.weights import copy_bytes

_MIB = 2**20
_LEAST_OWN_SEGMENT, _SEGMENT_STEP, _LEAST_SPLIT = 10 * _MIB, 2 * _MIB, _MIB
_ROUNDING = 512
# Above `max_split_size` a block is given only to a request that leaves less than this of it.
_MOST_LEFT = 20 * _MIB
# Projections that are one weight in vLLM, by the one that is named first.
_FUSED = {
    "k_proj": "q_proj",
    "v_proj": "q_proj",
    "g_proj": "q_proj",
    "up_proj": "gate_proj",
    "in_proj_z": "in_proj_qkv",
}
_OUTSIDE = (WeightPart.VISION, WeightPart.PROJECTOR)


def allocator_rounding(model: ModelSpec, tp: int, max_split_bytes: int) -> int:
    """Bytes of one rank's segments that are left over and counted; weights in fewer bits than the model's are left
    out, since kernels lay them out anew.

    Args:
        model: The model, or one pipeline stage of it.
        tp: Tensor-parallel size.
        max_split_bytes: Size from which blocks are not split while weights are loaded; 0 for none.
    """
    requests = _requests(model, tp)
    left = sum(count * _end(size, max_split_bytes) for size, count in requests.items())
    if not max_split_bytes:
        return left
    # What computing RoPE tables leaves free is given whole to weights that nearly fill it.
    for block in sorted(block for block in _freed_by_tables(model) if block >= max_split_bytes):
        fitting = [
            size
            for size, count in requests.items()
            if count and max_split_bytes <= size <= block < size + _MOST_LEFT
        ]
        if fitting:
            size = max(fitting)
            requests[size] -= 1
            left += block - size - _end(size, max_split_bytes)
    return left


def _requests(model: ModelSpec, tp: int) -> Counter[int]:
    """How many weights of each size get segments of their own; each is a tensor of the loaded model."""
    sizes: Counter[tuple[str, int]] = Counter()
    for tensor in model.weights:
        if tensor.part not in _OUTSIDE and tensor.quant is None:
            sizes[_loaded_name(tensor), tensor.copies] += copy_bytes(tensor, tp, model.dtype_bytes)
    requests: Counter[int] = Counter()
    for (_, copies), size in sizes.items():
        if size >= _LEAST_OWN_SEGMENT:
            requests[-(-size // _ROUNDING) * _ROUNDING] += copies
    return requests


def _loaded_name(tensor: WeightTensor) -> str:
    path, _, last = tensor.name.rpartition(".")
    return f"{path}.{_FUSED.get(last, last)}"


def _end(size: int, max_split_bytes: int) -> int:
    """What is left of a new segment and not split off."""
    left = -size % _SEGMENT_STEP
    whole = left <= _LEAST_SPLIT or (max_split_bytes and size >= max_split_bytes)
    return left if whole else 0


def _freed_by_tables(model: ModelSpec) -> list[int]:
    """Blocks of a table's computation in float32: angles, cosines and sines, one of which the table itself takes, and
    both in one (layers/rotary_embedding/base.py: _compute_cos_sin_cache)."""
    freed = []
    for rope in model.ropes:
        both = rope.positions * rope.rotary_dim * 4
        freed += [both // 2, both // 2, both]
    return freed
