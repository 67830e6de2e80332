"""Bytes of SGLang's allocations on one GPU, without a ledger's words: what a sweep adds up for every point."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from farspan.engines.sglang.adapters import adapter_bytes
from farspan.engines.sglang.config import SglangConfig
from farspan.engines.sglang.elastic import idle_table_bytes
from farspan.engines.sglang.pool import PoolSizes, pool_bytes
from farspan.engines.sglang.tables import (
    INT64,
    GraphTable,
    index_bytes,
    radix_copy_bytes,
    request_table_bytes,
    rope_bytes,
)
from farspan.models.spec import ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import offloadable_bytes, rank_weight_bytes
from farspan.planner.calibration import memory_of
from farspan.sizes import GIB

PREFILL_MIB_PER_SIZE = 8
GRAPH_MIB_PER_BATCH = 2  # SGLang's own rule of thumb: reserve_for_graph_mb
_WORKSPACE_MIB = {"flashinfer": 384, "trtllm_mha": 512, "trtllm_mla": 512}  # SGLANG_FLASHINFER_WORKSPACE_SIZE


# One gpt-oss-20b server on an H100 (0.5.16) held 2.05 GiB more than the checkpoint: this much of the padded experts.
MXFP4_ON_HOPPER = 1.115


# Of eager steps: ids, positions, cache locations and three rows of image positions, int64 each
# (model_executor/cuda_graph_buffer_registry.py: build_decode_registry).
EAGER_TOKEN_BYTES = 6 * INT64
# Three 0.5.16 starts on an H200, triton without graphs: 0.09 to 0.10 GiB gone beside those buffers.
WARMED_UP_BYTES = int(0.097 * GIB)

# What data-parallel attention shares out within a group of ranks only (layers/dp_attention.py: get_attention_tp_group).
_COPIED_BY_GROUPS = (WeightPart.ATTENTION, WeightPart.INDEXER, WeightPart.EMBEDDING)


class LoggedSize(NamedTuple):
    """Bytes that logs show and no code says, and which log."""

    bytes: int
    source: str


def context_size(config: SglangConfig) -> LoggedSize:
    """Bytes gone before loading, by the link between the GPUs: no code says them, logs do."""
    gpu, tp = config.gpu, config.tp
    if gpu.capability == (0, 0):
        gib, source = 4.0, "sglang 0.5.9 log of 8x MI355X: 287.60 GiB less 283.60 free"
    elif gpu.link == "PCIe":
        gib, source = 0.42, "sglang 0.4.3 log of 4x L4: 22.03 GiB less 21.63 free; one RTX 5090 in 0.5.16"
    elif tp == 1:
        gib, source = 0.67, "sglang 0.5.16 log of one H200: 139.80 GiB less 139.13 free"
    elif gpu.name == "H200" and config.rules.hybrid_flag:
        gib, source = 0.90, "sglang 0.5.6.post2 on 8x H200, what the pools left over"
    elif tp < 4:
        gib, source = 1.65, "logs of H100 pairs: 1.5 to 2.0 GiB gone"
    else:
        gib, source = 1.95, "sglang 0.5.16 log of 8x H200: 139.80 GiB less 137.9 free"
    return LoggedSize(int(gib * GIB), source)


def load_remainder(config: SglangConfig) -> LoggedSize:
    """Bytes that loading takes beside the tensors of the checkpoint and the RoPE tables."""
    if config.gpu.capability != (0, 0):
        return LoggedSize(
            int(0.17 * GIB), "sglang 0.5.16 log of Scout: 30.27 GB used by loading, less the lines above"
        )
    quantization = config.model.quantization
    if quantization is not None and quantization.bits == 4:
        return LoggedSize(
            int(2.36 * GIB), "sglang 0.5.9 log of Kimi-K2.5 on 8x MI355X: 73.58 GB used by loading"
        )
    return LoggedSize(int(0.84 * GIB), "sglang 0.5.9 log of GLM-5-FP8 on 8x MI355X: 89.58 GB used by loading")


class LoadSizes(NamedTuple):
    """What is on the GPU before the pools, in bytes, and what is free before and after loading; `offloaded`
    weights are in the machine's memory, and not among `tensors`."""

    context: int
    tensors: int
    offloaded: int
    ropes: int
    remainder: int
    free_before: int
    free_after: int

    @property
    def weights_bytes(self) -> int:
        """Weights and RoPE tables."""
        return self.tensors + self.ropes


def load_sizes(config: SglangConfig, context_length: int) -> LoadSizes:
    """The driver's context, the weights of one rank and the RoPE tables, in bytes."""
    model, tp = config.model, config.tp
    context = context_size(config).bytes
    offloaded = min(config.given.cpu_offload_bytes, offloadable_bytes(model, tp))
    tensors = _tensor_bytes(
        config.model, tp, config.attention_tp, config.resolved.multimodal, config.gpu.capability[0]
    )
    tensors -= offloaded
    ropes = sum(rope_bytes(rope, context_length) for rope in model.ropes)
    before = config.gpu.memory_bytes - context
    remainder = load_remainder(config).bytes
    memory = memory_of(config.calibration)
    if memory is not None:
        remainder = max(0, remainder + memory.outside_torch_bytes)
    after = before - tensors - ropes - remainder
    return LoadSizes(context, tensors, offloaded, ropes, remainder, before, after)


def counted_draft_bytes(config: SglangConfig) -> int:
    """What a draft takes while the pool is sized, copies of embedding and output head included; 0 where it is loaded
    later."""
    draft = config.draft
    return draft.weights + draft.copies if draft is not None and config.rules.counts_drafts else 0


def draft_bytes(config: SglangConfig, sizes: PoolSizes) -> tuple[int, int]:
    """Weights and KV pool of a draft once the server is up; its pool has the slots of the model's."""
    draft = config.draft
    if draft is None:
        return 0, 0
    return draft.weights, (sizes.full_tokens + config.resolved.page_size) * draft.token_bytes


@lru_cache(maxsize=256)
def _tensor_bytes(model: ModelSpec, tp: int, attention_tp: int, multimodal: bool, capability: int) -> int:
    """Weights of one rank as SGLang holds them; without a vision tower for a server that takes text only."""
    weights = rank_weight_bytes(model, tp)
    vision = weights.by_part.get(WeightPart.VISION, 0) + weights.by_part.get(WeightPart.PROJECTOR, 0)
    held = weights.total - (0 if multimodal else vision)
    if attention_tp < tp:
        copied = rank_weight_bytes(model, attention_tp).by_part
        held += sum(copied.get(part, 0) - weights.by_part.get(part, 0) for part in _COPIED_BY_GROUPS)
    if grows_on_hopper(model, capability):
        held += int(weights.by_part.get(WeightPart.EXPERTS, 0) * (MXFP4_ON_HOPPER - 1))
    return held


def fixed_bytes(config: SglangConfig, load: LoadSizes, sizes: PoolSizes, available: float) -> int:
    """Bytes of every line the context does not change, up to the graphs: sums what the ledger's lines say."""
    layout, page = config.layout, config.resolved.page_size
    pools = (
        pool_bytes(sizes.window_tokens, layout.window_layers, layout.window_layer_bytes, page)
        + full_pool_bytes(config, sizes)
        + index_bytes(sizes.full_tokens, sizes.window_tokens, page, config.rules)
    )
    return (
        load.context
        + load.weights_bytes
        + lora_bytes(config)
        + load.remainder
        + sizes.state_bytes
        + (int(available) if config.has_elastic_pools else pools)
        + workspace_bytes(config)
        + eager_bytes(config, sizes)
        + prefill_graph_bytes(config)
        + sum(draft_bytes(config, sizes))
    )


def drafted_tokens(config: SglangConfig) -> int:
    """Tokens verified at once beside a request's own; each has a column in the table of requests."""
    return config.given.speculation.tokens if config.given.speculation else 0


def table_bytes(config: SglangConfig, rows: int, context_length: int) -> int:
    """Bytes of the table of requests once the server has started; none of its own where the pools' budget has it."""
    if config.elastic is None:
        return request_table_bytes(rows, context_length, config.rules, drafted_tokens(config))
    every = rows + config.rules.padding_row
    return 0 if config.elastic.pools else idle_table_bytes(every, context_length, pools=False)


def context_bytes(
    config: SglangConfig, context_length: int, rows: int, tables: tuple[GraphTable, ...], batch: int
) -> int:
    """Bytes of the lines the context changes, up to the graphs: request rows, and graphs of up to `batch`."""
    total = table_bytes(config, rows, context_length) + captured_bytes(config, batch)
    for table in tables:
        total += table.bytes
    return total


def captured_bytes(config: SglangConfig, batch: int) -> int:
    """Bytes of decode's graphs of up to `batch` requests: SGLang's own rule of thumb, or what this machine took."""
    memory = memory_of(config.calibration)
    share = 1.0 if memory is None else memory.graphs_share
    # A draft captures its own steps beside the model's.
    captures = 1 if config.draft is None else 2
    return int(GRAPH_MIB_PER_BATCH * batch * 2**20 * share * captures)


def lora_bytes(config: SglangConfig) -> int:
    """Bytes of the buffers that LoRA adapters are copied into."""
    return adapter_bytes(config.model, config.given.adapters, config.attention_tp)


def full_pool_bytes(config: SglangConfig, sizes: PoolSizes) -> int:
    """Bytes of the full pool, index keys included."""
    layout, page = config.layout, config.resolved.page_size
    keys = (sizes.full_tokens + page) * layout.indexer_bytes
    return pool_bytes(sizes.full_tokens, layout.full_layers, layout.stored_layer_bytes, page) + keys


def eager_tokens(config: SglangConfig, sizes: PoolSizes) -> int:
    """Tokens that the input buffers of eager steps hold (model_executor/runner/eager_runner.py: EagerRunner)."""
    rules, chunk = config.rules, config.resolved.chunked_prefill_size
    if not rules.eager_buffers:
        return 0
    if chunk > 0 and not rules.eager_buffers_by_pool:
        return chunk
    return max(sizes.full_tokens, chunk)


def eager_bytes(config: SglangConfig, sizes: PoolSizes) -> int:
    """Those buffers, and the kernels warmed up beside them; 0 where the version has neither."""
    tokens = eager_tokens(config, sizes)
    return tokens * EAGER_TOKEN_BYTES + WARMED_UP_BYTES if tokens else 0


def workspace_bytes(config: SglangConfig) -> int:
    """Bytes of the attention backends' workspace; 0 for those that have none."""
    backends = (config.resolved.decode_backend, config.resolved.attention_backend)
    return max(_WORKSPACE_MIB.get(name, 0) for name in backends) * 2**20


def grows_on_hopper(model: ModelSpec, capability: int) -> bool:
    """Whether the model's experts are larger on the GPU than their padded shapes."""
    return capability == 9 and model.quantization is not None and model.quantization.method == "mxfp4"


def prefill_graph_bytes(config: SglangConfig) -> int:
    """Bytes of prefill's graphs: SGLang's own rule of thumb for each, and the memory they run in, as large as the
    activations of the largest (one log of 0.5.11: 2.32 GiB for 16,384 tokens of Qwen3-8B; this says 2.4)."""
    resolved = config.resolved
    workspace = resolved.prefill_graph_tokens * _activation_bytes_per_token(config.model, config.tp)
    return PREFILL_MIB_PER_SIZE * resolved.prefill_graph_sizes * 2**20 + workspace


def prefill_bytes(config: SglangConfig, prompt: int) -> tuple[int, int]:
    """Bytes a prompt of `prompt` tokens adds at run time: activations of a chunk, and the prefix tree's index
    copies."""
    chunk = config.resolved.chunked_prefill_size
    tokens = min(chunk if chunk > 0 else prompt, prompt)
    copied = config.rules.radix_copies_indices and config.given.radix_cache
    # A chunk that was captured runs in the graph's own memory.
    eager = tokens > config.resolved.prefill_graph_tokens
    activations = tokens * _activation_bytes_per_token(config.model, config.tp) if eager else 0
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
