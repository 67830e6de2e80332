"""What vLLM leaves for KV on a card: the fraction it may use, less weights, less what its profile run takes.

The subtraction is vLLM's; what the profile run measures is in `profile_run`.
"""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.vllm.config import VllmConfig
from farspan.engines.vllm.defaults import BatchLimits
from farspan.engines.vllm.graphs import graph_bytes, graph_estimate
from farspan.engines.vllm.loaded_weights import LoadedWeights, loaded_weights
from farspan.engines.vllm.pool import VllmKvLayout
from farspan.engines.vllm.profile_run import ProfileRun, profile_run
from farspan.engines.vllm.rank_form import least_expert_width
from farspan.sizes import GIB

# The CUDA context is there before vLLM takes its first snapshot, so no budget counts it.
CONTEXT_BYTES = 563 * 2**20


class Budget(NamedTuple):
    """The KV budget of one rank, in bytes.

    Args:
        requested: Total memory times the fraction.
        weights: Weights as the rank loads them, on the GPU.
        offloaded: Weights kept in the machine's memory instead.
        rope: RoPE tables.
        rounding: What torch's allocator counts beyond the weights and tables themselves.
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
    rounding: int
    profile: ProfileRun
    graphs_subtracted: int
    available: int
    given: bool
    source: str

    @property
    def loaded(self) -> int:
        """What vLLM calls "Model loading took"."""
        return self.weights + self.rope + self.rounding


def rank_weights(config: VllmConfig) -> LoadedWeights:
    """Weights of one rank."""
    return loaded_weights(
        config.model,
        config.tp,
        expert_parallel=config.given.expert_parallel,
        expert_replicas=config.expert_replicas,
        adapters=config.given.adapters,
        whole_encoder=config.given.whole_encoder,
        max_split_bytes=0 if config.gpu.is_amd else config.rules.max_split_bytes,
        least_expert_width=least_expert_width(config.model.architecture, config.rules),
    )


def kv_budget(config: VllmConfig, limits: BatchLimits) -> Budget:
    """Bytes for KV on one rank (vllm 0.12.0 v1/worker/gpu_worker.py: determine_available_memory)."""
    given, rules = config.given, config.rules
    loaded = rank_weights(config)
    offloaded = min(given.cpu_offload_bytes, loaded.offloadable)
    weights = loaded.weights - offloaded
    fraction = given.gpu_memory_utilization or rules.default_utilization
    requested = int(config.gpu.memory_bytes * fraction)
    profile = profile_run(config, limits)
    estimated = given.graph_estimate_env if given.graph_estimate_env is not None else rules.subtracts_graphs
    can_estimate = rules.estimates_graphs_on_amd if config.gpu.is_amd else rules.estimates_graphs
    graphs = graph_estimate(config, limits) if estimated and can_estimate else 0
    predicted = requested - weights - loaded.rope - loaded.rounding - profile.total - graphs
    available, by_hand, source = predicted, False, "predicted from the card, the model and the flags"
    if config.available_kv_bytes is not None:
        available, by_hand, source = config.available_kv_bytes, True, "the engine's own figure"
    elif given.kv_cache_memory_bytes is not None:
        available, by_hand, source = given.kv_cache_memory_bytes, True, "--kv-cache-memory-bytes"
    return Budget(
        requested,
        weights,
        offloaded,
        loaded.rope,
        loaded.rounding,
        profile,
        graphs,
        available,
        by_hand,
        source,
    )


def bytes_beside_tables(
    config: VllmConfig, limits: BatchLimits, layout: VllmKvLayout, num_blocks: int, budget: Budget
) -> int:
    """Bytes of every line on the GPU but the block tables: to decide, many times over, whether they fit.

    The largest peak is the profile run's: later steps use the same memory again.
    """
    pool = num_blocks * layout.bytes_per_block
    fixed = CONTEXT_BYTES + budget.loaded + budget.profile.total
    return fixed + pool + graph_bytes(config, limits)


def gib(count: float) -> str:
    """Bytes as vLLM logs them: GiB with two digits."""
    return f"{count / GIB:.2f} GiB"
