"""What vLLM leaves for KV on a card: the fraction it may use, less weights, less what its profile run takes.

The subtraction is vLLM's. What the profile run measures cannot be computed from a config: it is fitted to two
servers (vLLM 0.12.0, Scout TP 8 on 8x H200: 89.71 GiB left; vLLM 0.24.0, one rank of it alone: 94.88 GiB).
These are two equations for the constants below; how the constants share the two sums is an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from farspan.engines.vllm.config import VllmConfig
from farspan.engines.vllm.defaults import BatchLimits
from farspan.engines.vllm.pool import VllmKvLayout
from farspan.models.spec import ModelSpec
from farspan.models.weights import offloadable_bytes, rank_weight_bytes, rope_table_bytes
from farspan.sizes import GIB

_MIB = 2**20

# The CUDA context is there before vLLM takes its first snapshot, so no budget counts it.
CONTEXT_BYTES = 563 * _MIB
# Kernels, cuBLAS workspaces and handles loaded during the profile run, outside torch's allocator.
NON_TORCH_BYTES = 461 * _MIB
# NCCL channels and custom all-reduce buffers, first used during the profile run.
COLLECTIVE_BYTES = 1608 * _MIB
# Images profiled through the vision tower: the outputs it keeps and the workspace of its layers.
IMAGE_BYTES = 512 * _MIB
# Copies of the hidden states of one step alive at the peak of the forward pass.
ACTIVATION_COPIES = 30.7
# CUDA graphs of 51 piecewise sizes up to 512: what capture took, and what profiling estimates.
GRAPH_BYTES = 717 * _MIB
GRAPH_ESTIMATE_BYTES = 502 * _MIB


@dataclass(frozen=True, slots=True)
class ProfileRun:
    """What the profile run takes, in bytes: fitted, see this module's head."""

    forward: int
    sampler: int
    images: int
    non_torch: int

    @property
    def torch_peak(self) -> int:
        """Peak of torch's allocator above the weights: the sampler runs after the forward pass."""
        return max(self.forward, self.sampler) + self.images

    @property
    def total(self) -> int:
        """Everything the budget loses to it."""
        return self.torch_peak + self.non_torch


@dataclass(frozen=True, slots=True)
class Budget:
    """The KV budget of one rank, in bytes.

    Args:
        requested: Total memory times the fraction.
        weights: Weights as the rank loads them, on the GPU.
        offloaded: Weights kept in the machine's memory instead.
        rope: RoPE tables.
        profile: What the profile run takes.
        graphs_subtracted: CUDA graph estimate taken from the budget.
        available: What vLLM calls "Available KV cache memory"; may be negative.
        given: Whether `available` was given, by a flag or from a log, rather than predicted.
        source: Where `available` comes from, in words.
    """

    requested: int
    weights: int
    offloaded: int
    rope: int
    profile: ProfileRun
    graphs_subtracted: int
    available: int
    given: bool
    source: str


@lru_cache(maxsize=1024)
def weight_bytes(model: ModelSpec, tp: int) -> tuple[int, int]:
    """Weights and RoPE tables of one rank, in bytes; vLLM keeps the tables in the model's dtype."""
    return rank_weight_bytes(model, tp).total, rope_table_bytes(model, model.dtype_bytes)


def profile_run(config: VllmConfig, limits: BatchLimits) -> ProfileRun:
    """Predict what vLLM's profile run measures (gpu_worker.py: determine_available_memory)."""
    model, given, rules = config.model, config.given, config.rules
    forward = int(ACTIVATION_COPIES * limits.tokens * model.hidden_size * model.dtype_bytes)
    logits = limits.requests * model.vocab_size
    return ProfileRun(
        forward=forward,
        sampler=logits * rules.sampler_bytes,
        images=IMAGE_BYTES if model.has_vision and given.images else 0,
        non_torch=NON_TORCH_BYTES + (COLLECTIVE_BYTES if config.tp > 1 else 0),
    )


def kv_budget(config: VllmConfig, limits: BatchLimits) -> Budget:
    """Bytes for KV on one rank (vllm 0.12.0 v1/worker/gpu_worker.py: determine_available_memory)."""
    given, rules = config.given, config.rules
    weights, rope = weight_bytes(config.model, config.tp)
    offloaded = min(given.cpu_offload_bytes, offloadable_bytes(config.model, config.tp))
    weights -= offloaded
    fraction = given.gpu_memory_utilization or rules.default_utilization
    requested = int(config.gpu.memory_bytes * fraction)
    profile = profile_run(config, limits)
    estimated = given.graph_estimate_env if given.graph_estimate_env is not None else rules.subtracts_graphs
    graphs = GRAPH_ESTIMATE_BYTES if estimated and rules.subtracts_graphs and not given.enforce_eager else 0
    predicted = requested - weights - rope - profile.total - graphs
    available, by_hand, source = predicted, False, "predicted from the card, fitted to two servers"
    if config.available_kv_bytes is not None:
        available, by_hand, source = config.available_kv_bytes, True, "the engine's own figure"
    elif given.kv_cache_memory_bytes is not None:
        available, by_hand, source = given.kv_cache_memory_bytes, True, "--kv-cache-memory-bytes"
    return Budget(requested, weights, offloaded, rope, profile, graphs, available, by_hand, source)


def bytes_beside_tables(config: VllmConfig, layout: VllmKvLayout, num_blocks: int, budget: Budget) -> int:
    """Bytes of every line on the GPU but the block tables: to decide, many times over, whether they fit."""
    pool = num_blocks * layout.bytes_per_block
    fixed = CONTEXT_BYTES + budget.weights + budget.rope + budget.profile.total
    return fixed + pool + (0 if config.given.enforce_eager else GRAPH_BYTES)


def gib(count: float) -> str:
    """Bytes as vLLM logs them: GiB with two digits."""
    return f"{count / GIB:.2f} GiB"
