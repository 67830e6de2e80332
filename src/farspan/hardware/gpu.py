"""What a GPU is to a planner: bytes torch can see, bytes a second, operations a second."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from farspan.value_hash import ValueHash


class Origin(StrEnum):
    """How far a figure can be trusted."""

    MEASURED = "measured"  # read off a real card for this catalog
    REPORTED = "reported"  # what torch printed on such cards, in out-of-memory messages others published
    DOCUMENTED = "documented"  # the vendor's data sheet
    GIVEN = "given"  # said by the user
    ASSUMED = "assumed"  # derived from a documented figure by a rule the docs state


@dataclass(frozen=True, slots=True)
class Gpu(ValueHash):
    """One GPU. Compared by value and hashed once: it is part of cache keys.

    Args:
        name: Catalog name, such as `H200`.
        memory_bytes: Total bytes as `torch.cuda.get_device_properties(0).total_memory` reports them.
        memory_origin: Where `memory_bytes` comes from.
        bandwidth: Memory bandwidth in bytes/s (data sheet).
        bf16_flops: Dense bf16 operations/s, without sparsity (data sheet).
        fp8_flops: Dense FP8 operations/s; 0 when the card has no FP8 units.
        link: "NVLink", "PCIe" or "Infinity Fabric".
        link_bandwidth: Bytes/s from one GPU to the others, both directions added, as vendors state it.
        capability: CUDA compute capability such as (9, 0); (0, 0) for others.
        assumed: What was assumed when this GPU was chosen for what the user wrote; empty when they named it.
    """

    name: str
    memory_bytes: int
    memory_origin: Origin
    bandwidth: float
    bf16_flops: float
    fp8_flops: float
    link: str
    link_bandwidth: float
    capability: tuple[int, int] = (0, 0)
    assumed: str = ""

    __hash__ = ValueHash.__hash__

    @property
    def is_amd(self) -> bool:
        """Whether it is an AMD Instinct, which ROCm drives."""
        return self.link == "Infinity Fabric"


@dataclass(frozen=True, slots=True)
class Node:
    """`count` GPUs of one kind in one machine."""

    gpu: Gpu
    count: int
    host_memory_bytes: int | None = None
