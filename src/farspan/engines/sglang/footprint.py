"""Bytes of SGLang's allocations on one GPU, without a ledger's words: what a sweep adds up for every point."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from farspan.engines.sglang.config import SglangConfig
from farspan.engines.sglang.pool import PoolSizes, pool_bytes
from farspan.engines.sglang.tables import (
    GraphTable,
    index_bytes,
    radix_copy_bytes,
    request_table_bytes,
    rope_bytes,
)
from farspan.models.spec import ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import offloadable_bytes, rank_weight_bytes
from farspan.sizes import GIB

_CONTEXT_ONE_GPU = int(0.67 * GIB)  # 139.80 GiB less the 139.13 GB free before loading (0.5.16, one H200)
_CONTEXT_MANY_GPUS = int(0.90 * GIB)  # from what the pools of 0.5.6.post2 left over on 8x H200
LOAD_REMAINDER = int(0.17 * GIB)  # 30.27 GB used by loading Scout less its tensors and RoPE table (0.5.16)
PREFILL_MIB_PER_SIZE = 8
GRAPH_MIB_PER_BATCH = 2  # SGLang's own rule of thumb: reserve_for_graph_mb
_WORKSPACE_MIB = {"flashinfer": 384, "trtllm_mha": 512, "trtllm_mla": 512}  # SGLANG_FLASHINFER_WORKSPACE_SIZE


class LoadSizes(NamedTuple):
    """What is on the GPU before the pools, in bytes, and what is free before and after loading; `offloaded`
    weights are in the machine's memory, and not among `tensors`."""

    context: int
    tensors: int
    offloaded: int
    ropes: int
    free_before: int
    free_after: int

    @property
    def weights_bytes(self) -> int:
        """Weights and RoPE tables."""
        return self.tensors + self.ropes


def load_sizes(config: SglangConfig, context_length: int) -> LoadSizes:
    """The driver's context, the weights of one rank and the RoPE tables, in bytes."""
    model, tp = config.model, config.tp
    context = _CONTEXT_ONE_GPU if tp == 1 else _CONTEXT_MANY_GPUS
    offloaded = min(config.given.cpu_offload_bytes, offloadable_bytes(model, tp))
    tensors = _tensor_bytes(model, tp, config.resolved.multimodal) - offloaded
    ropes = sum(rope_bytes(rope, context_length) for rope in model.ropes)
    before = config.gpu.memory_bytes - context
    return LoadSizes(context, tensors, offloaded, ropes, before, before - tensors - ropes - LOAD_REMAINDER)


@lru_cache(maxsize=256)
def _tensor_bytes(model: ModelSpec, tp: int, multimodal: bool) -> int:
    """Weights of one rank; without a vision tower for a server that takes text only."""
    weights = rank_weight_bytes(model, tp)
    vision = weights.by_part.get(WeightPart.VISION, 0) + weights.by_part.get(WeightPart.PROJECTOR, 0)
    return weights.total - (0 if multimodal else vision)


def fixed_bytes(config: SglangConfig, load: LoadSizes, sizes: PoolSizes) -> int:
    """Bytes of every line the context does not change, up to the graphs: sums what the ledger's lines say."""
    layout, page = config.layout, config.resolved.page_size
    return (
        load.context
        + load.weights_bytes
        + LOAD_REMAINDER
        + sizes.state_bytes
        + pool_bytes(sizes.window_tokens, layout.window_layers, layout.window_layer_bytes, page)
        + full_pool_bytes(config, sizes)
        + index_bytes(sizes.full_tokens, sizes.window_tokens, page, config.rules)
        + workspace_bytes(config)
        + PREFILL_MIB_PER_SIZE * config.resolved.prefill_graph_sizes * 2**20
    )


def context_bytes(
    config: SglangConfig, context_length: int, rows: int, tables: tuple[GraphTable, ...], batch: int
) -> int:
    """Bytes of the lines the context changes, up to the graphs: request rows, and graphs of up to `batch`."""
    total = request_table_bytes(rows, context_length, config.rules) + GRAPH_MIB_PER_BATCH * batch * 2**20
    for table in tables:
        total += table.bytes
    return total


def full_pool_bytes(config: SglangConfig, sizes: PoolSizes) -> int:
    """Bytes of the full pool, index keys included."""
    layout, page = config.layout, config.resolved.page_size
    keys = (sizes.full_tokens + page) * layout.indexer_bytes
    return pool_bytes(sizes.full_tokens, layout.full_layers, layout.stored_layer_bytes, page) + keys


def workspace_bytes(config: SglangConfig) -> int:
    """Bytes of the attention backends' workspace; 0 for those that have none."""
    backends = (config.resolved.decode_backend, config.resolved.attention_backend)
    return max(_WORKSPACE_MIB.get(name, 0) for name in backends) * 2**20


def prefill_bytes(config: SglangConfig, prompt: int) -> tuple[int, int]:
    """Bytes a prompt of `prompt` tokens adds at run time: activations of a chunk, and the prefix tree's index
    copies."""
    chunk = config.resolved.chunked_prefill_size
    tokens = min(chunk if chunk > 0 else prompt, prompt)
    copied = config.rules.radix_copies_indices and config.given.radix_cache
    activations = tokens * _activation_bytes_per_token(config.model, config.tp)
    return activations, radix_copy_bytes(prompt, chunk) if copied else 0


def returned_bytes(config: SglangConfig, offloaded: int) -> int:
    """Offloaded weights that are on the GPU at once during a forward pass: one layer's, at the average."""
    return min(offloaded, -(-offloadable_bytes(config.model, config.tp) // config.model.num_layers))


@lru_cache(maxsize=256)
def _activation_bytes_per_token(model: ModelSpec, tp: int) -> int:
    """Six residual-width tensors, QKV, and the widest MLP twice."""
    width = model.dtype_bytes
    attention = max(
        layer.num_heads // tp * layer.head_dim * 2 + 2 * layer.kv_heads_per_rank(tp) * layer.head_dim
        for layer in model.layers
    )
    mlp = max(
        max(
            layer.intermediate_size,
            layer.moe.intermediate_size * layer.moe.top_k + layer.moe.shared_intermediate_size
            if layer.moe
            else 0,
        )
        for layer in model.layers
    )
    return width * (6 * model.hidden_size + attention + 2 * -(-mlp // tp))
