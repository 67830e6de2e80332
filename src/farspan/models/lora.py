"""How many values a LoRA adapter of one rank has in a dense layer's projections, on one tensor-parallel rank."""

from __future__ import annotations

from typing import NamedTuple

from farspan.models.spec import LayerSpec


class AdapterValues(NamedTuple):
    """Values of one adapter in one layer, by projection; those that read one input together are one."""

    qkv: int
    o: int
    gate_up: int
    down: int


def adapter_values(
    layer: LayerSpec, hidden: int, rank: int, tp: int, *, read_rank: int = 0, written: int = 0
) -> AdapterValues:
    """Two matrices a projection: what is divided by tensor parallelism is divided here too, and nothing else.

    Args:
        layer: The layer.
        hidden: Its hidden size.
        rank: The adapter's rank.
        tp: Tensor-parallel ranks.
        read_rank: Rank of the first matrix of column-parallel projections; `rank` when 0.
        written: Width of the second matrix of row-parallel projections; `hidden` when 0.
    """
    reads, writes = (read_rank or rank) * hidden, rank * (written or hidden)
    heads, mlp = layer.num_heads // tp * layer.head_dim, layer.intermediate_size // tp
    keys = layer.kv_heads_per_rank(tp) * (layer.head_dim + layer.value_head_dim)
    return AdapterValues(
        qkv=3 * reads + rank * (heads + keys),
        o=rank * heads + writes,
        gate_up=2 * reads + rank * 2 * mlp,
        down=rank * mlp + writes,
    )
