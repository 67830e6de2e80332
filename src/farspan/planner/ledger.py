"""The memory ledger: every byte on one GPU as a named line that says where its number comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from farspan.errors import DefectError


class LedgerPhase(StrEnum):
    """When an allocation is made, in the order a server makes them."""

    LOAD = "load"  # the driver's context, weights, RoPE tables
    PROFILE = "profile"  # activations and buffers of the largest batch, measured before the pool is sized
    POOL = "pool"  # the KV cache and the tables that index it
    GRAPHS = "graphs"  # CUDA graph capture
    RUNTIME = "runtime"  # what a request adds once the server answers


class Basis(StrEnum):
    """How far a number can be trusted."""

    MIRRORED = "mirrored"  # the engine's own arithmetic, line by line
    FITTED = "fitted"  # fitted to what servers were seen to use
    ASSUMED = "assumed"  # a stated assumption, checked against nothing


@dataclass(frozen=True, slots=True)
class Allocation:
    """One line of the ledger.

    Args:
        name: What it is, unique in its ledger, such as "KV pool".
        bytes: Bytes on one GPU.
        when: The phase that allocates it.
        grows_with: What makes it larger, in words; empty when it is fixed.
        formula: The arithmetic with its numbers in it.
        source: The engine function it mirrors, or the measurement it was fitted to.
        basis: Mirrored, fitted or assumed.
        on_host: Whether the bytes are RAM of the machine, not of the GPU.
    """

    name: str
    bytes: int
    when: LedgerPhase
    grows_with: str
    formula: str
    source: str
    basis: Basis
    on_host: bool = False

    def __post_init__(self) -> None:
        if self.bytes < 0:
            raise DefectError(f"allocation {self.name!r} has {self.bytes} bytes")


@dataclass(frozen=True, slots=True)
class MemoryLedger:
    """Every allocation on one GPU (and its share of the host), in the order the engine makes them.

    Args:
        allocations: The lines; names are unique.
        capacity_bytes: Bytes of the GPU as torch reports them.
    """

    allocations: tuple[Allocation, ...]
    capacity_bytes: int

    def __post_init__(self) -> None:
        names = [line.name for line in self.allocations]
        if len(set(names)) != len(names):
            raise DefectError(f"a ledger names a line twice: {sorted(names)}")

    def __iter__(self) -> Iterator[Allocation]:
        return iter(self.allocations)

    def __len__(self) -> int:
        return len(self.allocations)

    def __getitem__(self, name: str) -> Allocation:
        """The line called `name`.

        Raises:
            KeyError: No line has that name.
        """
        for line in self.allocations:
            if line.name == name:
                return line
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(line.name == name for line in self.allocations)

    @property
    def gpu_bytes(self) -> int:
        """Bytes of all lines on the GPU."""
        return sum(line.bytes for line in self.allocations if not line.on_host)

    @property
    def host_bytes(self) -> int:
        """Bytes of all lines in RAM, for this GPU's rank."""
        return sum(line.bytes for line in self.allocations if line.on_host)

    @property
    def free_bytes(self) -> int:
        """Bytes left on the GPU; negative when the allocations do not fit."""
        return self.capacity_bytes - self.gpu_bytes

    def phase_bytes(self, phase: LedgerPhase) -> int:
        """Bytes the lines of one phase take on the GPU."""
        return sum(line.bytes for line in self.allocations if line.when is phase and not line.on_host)

    def totals(self) -> dict[LedgerPhase, int]:
        """Bytes on the GPU by phase, every phase present, in order."""
        return {phase: self.phase_bytes(phase) for phase in LedgerPhase}

    def first_overflow(self) -> Allocation | None:
        """The line at which the running total first exceeds the GPU, or None when everything fits."""
        used = 0
        for line in self.allocations:
            if line.on_host:
                continue
            used += line.bytes
            if used > self.capacity_bytes:
                return line
        return None
