"""SGLang's allocations on one GPU as ledger lines, in the order the server makes them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from farspan.engines.sglang.defaults import Resolved
from farspan.engines.sglang.hicache import HicacheTier
from farspan.engines.sglang.pool import PoolSizes, SglangKvLayout, pool_bytes
from farspan.engines.sglang.tables import (
    GraphTable,
    index_bytes,
    radix_copy_bytes,
    request_table_bytes,
    rope_bytes,
)
from farspan.engines.sglang.versions import SglangRules
from farspan.hardware.gpu import Gpu
from farspan.models.spec import ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import offloadable_bytes, rank_weight_bytes
from farspan.planner.ledger import Allocation, Basis, LedgerPhase
from farspan.sizes import GIB, format_bytes

_CONTEXT_ONE_GPU = int(0.67 * GIB)  # 139.80 GiB less the 139.13 GB free before loading (0.5.16, one H200)
_CONTEXT_MANY_GPUS = int(0.90 * GIB)  # from what the pools of 0.5.6.post2 left over on 8x H200
_LOAD_REMAINDER = int(0.17 * GIB)  # 30.27 GB used by loading Scout less its tensors and RoPE table (0.5.16)
_SMALL = 2**20
_PREFILL_MIB_PER_SIZE = 8
_GRAPH_MIB_PER_BATCH = 2  # SGLang's own rule of thumb: reserve_for_graph_mb
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


def load_sizes(model: ModelSpec, gpu: Gpu, tp: int, resolved: Resolved, cpu_offload_bytes: int) -> LoadSizes:
    """The driver's context, the weights of one rank and the RoPE tables."""
    context = _CONTEXT_ONE_GPU if tp == 1 else _CONTEXT_MANY_GPUS
    offloaded = min(cpu_offload_bytes, offloadable_bytes(model, tp))
    tensors = _tensor_bytes(model, tp, resolved.multimodal) - offloaded
    ropes = sum(rope_bytes(rope, resolved.context_length) for rope in model.ropes)
    before = gpu.memory_bytes - context
    return LoadSizes(context, tensors, offloaded, ropes, before, before - tensors - ropes - _LOAD_REMAINDER)


@lru_cache(maxsize=256)
def _tensor_bytes(model: ModelSpec, tp: int, multimodal: bool) -> int:
    """Weights of one rank; without a vision tower for a server that takes text only."""
    weights = rank_weight_bytes(model, tp)
    vision = weights.by_part.get(WeightPart.VISION, 0) + weights.by_part.get(WeightPart.PROJECTOR, 0)
    return weights.total - (0 if multimodal else vision)


def load_lines(
    load: LoadSizes, model: ModelSpec, tp: int, resolved: Resolved, rules: SglangRules
) -> tuple[Allocation, ...]:
    """The lines of what is loaded."""
    context = load.context
    vision = model.has_vision and not resolved.multimodal
    table = ", ".join(f"{rope.positions:,} x {rope.rotary_dim} x 4 B" for rope in model.ropes)
    return (
        Allocation(
            "CUDA context and communicators",
            context,
            LedgerPhase.LOAD,
            "GPUs" if tp > 1 else "",
            f"{context / GIB:.2f} GiB",
            "sglang 0.5.16 log of one H200: 139.80 GiB less 139.13 free"
            if tp == 1
            else "sglang 0.5.6.post2 on 8x H200, what the pools left over",
            Basis.FITTED,
        ),
        Allocation(
            "Weights",
            load.tensors,
            LedgerPhase.LOAD,
            "model, 1/TP",
            f"tensors of one of {tp} ranks"
            + (", no vision tower" if vision else "")
            + (f", less {format_bytes(load.offloaded)} in RAM" if load.offloaded else ""),
            "the checkpoint's tensor shapes",
            Basis.MIRRORED,
        ),
        Allocation(
            "RoPE tables",
            load.ropes,
            LedgerPhase.LOAD,
            "the model's longest context",
            f"{table} (float32)",
            f"sglang {rules.version} srt/layers/rotary_embedding: RotaryEmbedding.__init__",
            Basis.MIRRORED,
        ),
        Allocation(
            "Other load-time buffers",
            _LOAD_REMAINDER,
            LedgerPhase.LOAD,
            "",
            "0.17 GiB",
            "sglang 0.5.16 log of Scout: 30.27 GB used by loading, less the lines above",
            Basis.FITTED,
        ),
    )


def fixed_bytes(
    load: LoadSizes, layout: SglangKvLayout, sizes: PoolSizes, resolved: Resolved, rules: SglangRules
) -> int:
    """Bytes of every line the context does not change, up to the graphs: sums what the lines say, without
    writing them."""
    page = resolved.page_size
    return (
        load.context
        + load.weights_bytes
        + _LOAD_REMAINDER
        + sizes.state_bytes
        + pool_bytes(sizes.window_tokens, layout.window_layers, layout.window_layer_bytes, page)
        + full_pool_bytes(layout, sizes, page)
        + index_bytes(sizes.full_tokens, sizes.window_tokens, page, rules)
        + _workspace_bytes(resolved)
        + _PREFILL_MIB_PER_SIZE * resolved.prefill_graph_sizes * 2**20
    )


def context_bytes(
    rows: int, tables: tuple[GraphTable, ...], batch: int, resolved: Resolved, rules: SglangRules
) -> int:
    """Bytes of the lines the context changes, up to the graphs."""
    total = request_table_bytes(rows, resolved.context_length, rules) + _GRAPH_MIB_PER_BATCH * batch * 2**20
    for table in tables:
        total += table.bytes
    return total


def full_pool_bytes(layout: SglangKvLayout, sizes: PoolSizes, page_size: int) -> int:
    """Bytes of the full pool, index keys included."""
    keys = (sizes.full_tokens + page_size) * layout.indexer_bytes
    return pool_bytes(sizes.full_tokens, layout.full_layers, layout.stored_layer_bytes, page_size) + keys


def _workspace_bytes(resolved: Resolved) -> int:
    backends = (resolved.decode_backend, resolved.attention_backend)
    return max(_WORKSPACE_MIB.get(name, 0) for name in backends) * 2**20


def prefill_bytes(
    model: ModelSpec, tp: int, prompt: int, resolved: Resolved, rules: SglangRules, *, radix_cache: bool
) -> tuple[int, int]:
    """Bytes a prompt adds at run time: activations of a chunk, and the prefix tree's index copies."""
    chunk = resolved.chunked_prefill_size
    activations = activation_bytes(model, tp, min(chunk if chunk > 0 else prompt, prompt))
    copies = radix_copy_bytes(prompt, chunk) if rules.radix_copies_indices and radix_cache else 0
    return activations, copies


def returned_bytes(model: ModelSpec, tp: int, offloaded: int) -> int:
    """Offloaded weights that are on the GPU at once during a forward pass: one layer's, at the average."""
    return min(offloaded, -(-offloadable_bytes(model, tp) // model.num_layers))


def pool_lines(
    layout: SglangKvLayout, sizes: PoolSizes, rows: int, resolved: Resolved, rules: SglangRules
) -> Iterator[Allocation]:
    """The request table, the pools and their index arrays."""
    source = f"sglang {rules.version} {rules.pool_source}"
    page, context = resolved.page_size, resolved.context_length
    table_rows = rows + rules.padding_row
    yield Allocation(
        "Request-to-token table",
        request_table_bytes(rows, context, rules),
        LedgerPhase.POOL,
        "--max-running-requests x --context-length",
        f"{table_rows:,} rows x ({context:,} + 4) x 4 B, outside --mem-fraction-static",
        f"sglang {rules.version} srt/mem_cache/memory_pool.py: ReqToTokenPool",
        Basis.MIRRORED,
    )
    if sizes.state_bytes:
        yield Allocation(
            "Recurrent state pool",
            sizes.state_bytes,
            LedgerPhase.POOL,
            "--mamba-full-memory-ratio",
            f"{sizes.state_slots:,} slots x {layout.state_bytes:,} B",
            f"sglang {rules.version} _handle_max_mamba_cache",
            Basis.MIRRORED,
        )
    if layout.window_layers:
        yield Allocation(
            "KV pool, window layers",
            pool_bytes(sizes.window_tokens, layout.window_layers, layout.window_layer_bytes, page),
            LedgerPhase.POOL,
            "--mem-fraction-static, --swa-full-tokens-ratio",
            f"({sizes.window_tokens:,} + {page}) x {layout.window_layers} layers x "
            f"{layout.window_layer_bytes} B",
            source,
            Basis.MIRRORED,
        )
    yield Allocation(
        "KV pool, full layers" if layout.window_layers else "KV pool",
        full_pool_bytes(layout, sizes, page),
        LedgerPhase.POOL,
        "--mem-fraction-static",
        f"({sizes.full_tokens:,} + {page}) x {layout.full_layers} layers x {layout.stored_layer_bytes} B"
        + (f" + {layout.indexer_bytes} B of index keys" if layout.indexer_bytes else ""),
        source,
        Basis.MIRRORED,
    )
    yield Allocation(
        "Token index arrays",
        index_bytes(sizes.full_tokens, sizes.window_tokens, page, rules),
        LedgerPhase.POOL,
        "tokens in the pools",
        "8 B a free token or page" + (", 8 B a full-pool token for the map" if layout.window_layers else ""),
        f"sglang {rules.version} srt/mem_cache/allocator",
        Basis.MIRRORED,
    )


def graph_lines(
    tables: tuple[GraphTable, ...], batch: int, captured: int, resolved: Resolved, rules: SglangRules
) -> Iterator[Allocation]:
    """The attention backend's workspace and graph state, and the captured graphs."""
    backend = resolved.decode_backend
    workspace = _workspace_bytes(resolved)
    if workspace:
        yield Allocation(
            "Attention workspace",
            workspace,
            LedgerPhase.GRAPHS,
            "",
            f"{workspace // 2**20} MiB",
            f"sglang {rules.version} SGLANG_FLASHINFER_WORKSPACE_SIZE",
            Basis.MIRRORED,
        )
    small = [table for table in tables if table.bytes < _SMALL]
    if small:
        yield Allocation(
            "CUDA graphs: small buffers",
            sum(table.bytes for table in small),
            LedgerPhase.GRAPHS,
            "--cuda-graph-max-bs",
            ", ".join(f"{table.name} {table.formula}" for table in small),
            f"sglang {rules.version} {backend} init_cuda_graph_state",
            Basis.MIRRORED,
        )
    for table in tables:
        if table.bytes < _SMALL:
            continue
        yield Allocation(
            f"CUDA graphs: {table.name}",
            table.bytes,
            LedgerPhase.GRAPHS,
            "--cuda-graph-max-bs x --context-length",
            table.formula,
            f"sglang {rules.version} {backend} init_cuda_graph_state",
            Basis.MIRRORED if table.mirrored else Basis.ASSUMED,
        )
    if resolved.prefill_graph_sizes:
        yield Allocation(
            "CUDA graphs: prefill",
            _PREFILL_MIB_PER_SIZE * resolved.prefill_graph_sizes * 2**20,
            LedgerPhase.GRAPHS,
            "--cuda-graph-max-bs-prefill",
            f"{_PREFILL_MIB_PER_SIZE} MiB x {resolved.prefill_graph_sizes} sizes (SGLang's rule of thumb)",
            f"sglang {rules.version} reserve_for_graph_mb",
            Basis.ASSUMED,
        )
    if captured:
        yield Allocation(
            "CUDA graphs: captured",
            _GRAPH_MIB_PER_BATCH * batch * 2**20,
            LedgerPhase.GRAPHS,
            "--cuda-graph-max-bs",
            f"{_GRAPH_MIB_PER_BATCH} MiB x {batch} (SGLang's own rule of thumb), {captured} sizes",
            f"sglang {rules.version} reserve_for_graph_mb",
            Basis.ASSUMED,
        )


def runtime_lines(
    model: ModelSpec,
    tp: int,
    prompt: int,
    resolved: Resolved,
    rules: SglangRules,
    *,
    radix_cache: bool,
    offloaded: int,
) -> Iterator[Allocation]:
    """What a request adds once the server answers."""
    activations, copies = prefill_bytes(model, tp, prompt, resolved, rules, radix_cache=radix_cache)
    tokens = min(resolved.chunked_prefill_size if resolved.chunked_prefill_size > 0 else prompt, prompt)
    yield Allocation(
        "Prefill activations",
        activations,
        LedgerPhase.RUNTIME,
        "--chunked-prefill-size",
        f"{tokens:,} tokens x residual stream, QKV and the widest MLP",
        "counted from the layer sizes; no server was measured",
        Basis.ASSUMED,
    )
    if offloaded:
        yield Allocation(
            "Offloaded layer, copied back",
            returned_bytes(model, tp, offloaded),
            LedgerPhase.RUNTIME,
            "the size of a layer",
            "one layer's weights: a forward pass copies each offloaded layer to the GPU and drops it",
            f"sglang {rules.version} srt/utils/offloader.py: OffloaderV1; peak assumed to be one layer",
            Basis.ASSUMED,
        )
    if copies:
        yield Allocation(
            "Prefix tree: index copies",
            copies,
            LedgerPhase.RUNTIME,
            "the square of the prompt over --chunked-prefill-size",
            f"8 B x C k(k+1)/2, C = {resolved.chunked_prefill_size:,}, N = {prompt:,}",
            f"sglang {rules.version} srt/mem_cache/radix_cache.py: a node keeps the whole index array",
            Basis.MIRRORED,
        )


def host_lines(load: LoadSizes, tier: HicacheTier | None, rules: SglangRules) -> Iterator[Allocation]:
    """What one rank keeps in the machine's memory: offloaded weights, HiCache's pools."""
    if load.offloaded:
        yield Allocation(
            "Weights kept in RAM",
            load.offloaded,
            LedgerPhase.LOAD,
            "--cpu-offload-gb",
            f"{format_bytes(load.offloaded)}, rounded up by the engine to a whole parameter",
            f"sglang {rules.version} srt/utils/offloader.py: OffloaderV1",
            Basis.MIRRORED,
            on_host=True,
        )
    if tier is not None:
        yield Allocation(
            "HiCache host pools",
            tier.bytes,
            LedgerPhase.POOL,
            "--hicache-ratio or --hicache-size",
            f"{tier.full_tokens:,} tokens" + (f" and {tier.window_tokens:,}" if tier.window_tokens else ""),
            f"sglang {rules.version} HostKVCache.__init__",
            Basis.MIRRORED,
            on_host=True,
        )


def activation_bytes(model: ModelSpec, tp: int, tokens: int) -> int:
    """Live activations of one prefill chunk."""
    return tokens * _activation_bytes_per_token(model, tp)


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
