"""SGLang's allocations on one GPU as ledger lines, in the order the server makes them."""

from __future__ import annotations

from collections.abc import Iterator

from farspan.engines.sglang.config import SglangConfig
from farspan.engines.sglang.elastic import idle_table_bytes, row_bytes
from farspan.engines.sglang.footprint import (
    EAGER_TOKEN_BYTES,
    GRAPH_MIB_PER_BATCH,
    MXFP4_ON_HOPPER,
    PREFILL_MIB_PER_SIZE,
    WARMED_UP_BYTES,
    LoadSizes,
    captured_bytes,
    context_size,
    draft_bytes,
    drafted_tokens,
    eager_tokens,
    full_pool_bytes,
    grows_on_hopper,
    load_remainder,
    lora_bytes,
    prefill_bytes,
    prefill_graph_bytes,
    returned_bytes,
    workspace_bytes,
)
from farspan.engines.sglang.pool import pool_bytes
from farspan.engines.sglang.state import SglangState
from farspan.engines.sglang.tables import index_bytes, request_table_bytes
from farspan.planner.calibration import memory_of
from farspan.planner.ledger import Allocation, Basis, LedgerPhase, MemoryLedger
from farspan.sizes import GIB, format_bytes

_SMALL = 2**20  # buffers below it share a line


def make_ledger(state: SglangState) -> MemoryLedger:
    """Every allocation of a server, in the order it makes them."""
    lines = (
        *load_lines(state.config, state.memory.load),
        *_pool_lines(state),
        *_draft_lines(state),
        *_host_lines(state),
        *_graph_lines(state),
        *_runtime_lines(state),
    )
    return MemoryLedger(lines, state.request.gpu.memory_bytes)


def load_lines(config: SglangConfig, load: LoadSizes) -> tuple[Allocation, ...]:
    """The lines of what is loaded."""
    model, tp = config.model, config.tp
    context, memory = load.context, memory_of(config.calibration)
    vision = model.has_vision and not config.resolved.multimodal
    fitted = grows_on_hopper(model, config.gpu.capability[0])
    table = ", ".join(f"{rope.positions:,} x {rope.rotary_dim} x 4 B" for rope in model.ropes)
    return (
        Allocation(
            "CUDA context and communicators",
            context,
            LedgerPhase.LOAD,
            "GPUs" if tp > 1 else "",
            f"{context / GIB:.2f} GiB",
            context_size(config).source,
            Basis.FITTED,
        ),
        Allocation(
            "Weights",
            load.tensors,
            LedgerPhase.LOAD,
            "model, 1/TP",
            f"tensors of one of {tp} ranks"
            + (
                f", attention whole in each of {config.given.attention_groups} groups"
                * (config.attention_tp < tp)
            )
            + (f", MXFP4 experts x {MXFP4_ON_HOPPER} (one log)" if fitted else "")
            + (", no vision tower" if vision else "")
            + (f", less {format_bytes(load.offloaded)} in RAM" if load.offloaded else ""),
            "the checkpoint's tensor shapes",
            Basis.FITTED if fitted else Basis.MIRRORED,
        ),
        Allocation(
            "RoPE tables",
            load.ropes,
            LedgerPhase.LOAD,
            "the model's longest context",
            f"{table} (float32)",
            f"sglang {config.rules.version} srt/layers/rotary_embedding: RotaryEmbedding.__init__",
            Basis.MIRRORED,
        ),
        Allocation(
            "Other load-time buffers",
            load.remainder,
            LedgerPhase.LOAD,
            "",
            f"{load.remainder / GIB:.2f} GiB",
            load_remainder(config).source if memory is None else memory.source,
            Basis.FITTED,
        ),
    )


def _pool_lines(state: SglangState) -> Iterator[Allocation]:
    """The request table, the pools and their index arrays."""
    rules, layout, sizes = state.config.rules, state.config.layout, state.memory.sizes
    source = f"sglang {rules.version} {rules.pool_source}"
    page, context = state.config.resolved.page_size, state.context_length
    adapters = state.config.given.adapters
    if adapters is not None:
        yield Allocation(
            "LoRA buffers",
            lora_bytes(state.config),
            LedgerPhase.POOL,
            "--max-loras-per-batch x --max-lora-rank",
            f"{adapters.slots} adapters of rank {adapters.rank} in {', '.join(sorted(adapters.projections))}",
            f"sglang {rules.version} srt/lora/mem_pool.py: LoRAMemoryPool.init_buffers",
            Basis.MIRRORED,
        )
    if state.config.elastic is not None:
        yield from _elastic_lines(state)
        if state.config.elastic.pools:
            return
    else:
        yield Allocation(
            "Request-to-token table",
            request_table_bytes(state.rows, context, rules, drafted_tokens(state.config)),
            LedgerPhase.POOL,
            "--max-running-requests x --context-length",
            f"{state.rows + rules.padding_row:,} rows x ({context:,} + {4 + drafted_tokens(state.config)}) x 4 B, "
            "outside --mem-fraction-static",
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
        full_pool_bytes(state.config, sizes),
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


def _draft_lines(state: SglangState) -> Iterator[Allocation]:
    """What drafts in speculative decoding."""
    draft, rules = state.config.draft, state.config.rules
    if draft is None:
        return
    weights, pool = draft_bytes(state.config, state.memory.sizes)
    when = "counted before the pool is sized" if rules.counts_drafts else "loaded after the pool is sized"
    yield Allocation(
        "Draft: weights",
        weights,
        LedgerPhase.POOL,
        "--speculative-draft-model-path",
        f"{draft.words}; {when}",
        f"sglang {rules.version} srt/speculative",
        Basis.ASSUMED,
    )
    yield Allocation(
        "Draft: KV pool",
        pool,
        LedgerPhase.POOL,
        "tokens in the pool",
        f"({state.memory.sizes.full_tokens:,} + {state.config.resolved.page_size}) x {draft.token_bytes} B",
        f"sglang {rules.version} {rules.pool_source}",
        Basis.MIRRORED,
    )


def _elastic_lines(state: SglangState) -> Iterator[Allocation]:
    """What the plug-in's memory takes: of the table alone, or of the table and the KV pools together."""
    config, context = state.config, state.context_length
    source = "farspan.integrations.sglang"
    if config.has_elastic_pools:
        yield Allocation(
            "KV pools and table of requests, elastic",
            int(state.memory.available),
            LedgerPhase.POOL,
            "--mem-fraction-static",
            "the most they may grow to; memory is taken as requests come, and goes back when it is quiet",
            f"{source}: device_memory, kv_pools",
            Basis.MIRRORED,
        )
        return
    rows = state.rows + config.rules.padding_row
    yield Allocation(
        "Request-to-token table, elastic",
        idle_table_bytes(rows, context, pools=False),
        LedgerPhase.POOL,
        "--context-length",
        f"two whole rows of ({context:,} + 4) x 4 B, of {rows:,} that have addresses",
        f"{source}: elastic_requests",
        Basis.MIRRORED,
    )


def _graph_lines(state: SglangState) -> Iterator[Allocation]:
    """The attention backend's workspace and graph state, and the captured graphs."""
    rules, resolved = state.config.rules, state.config.resolved
    captured = sum(1 for size in resolved.graph_bs if size <= state.batch)
    backend = resolved.decode_backend
    workspace = workspace_bytes(state.config)
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
    tokens = eager_tokens(state.config, state.memory.sizes)
    if tokens:
        yield Allocation(
            "Input buffers of eager steps",
            tokens * EAGER_TOKEN_BYTES,
            LedgerPhase.GRAPHS,
            "tokens in the pool" if rules.eager_buffers_by_pool else "--chunked-prefill-size",
            f"{tokens:,} tokens x {EAGER_TOKEN_BYTES} B: ids, positions, cache locations",
            f"sglang {rules.version} srt/model_executor/runner/eager_runner.py: EagerRunner",
            Basis.MIRRORED,
        )
        yield Allocation(
            "Kernels warmed up",
            WARMED_UP_BYTES,
            LedgerPhase.GRAPHS,
            "",
            f"{WARMED_UP_BYTES / GIB:.2f} GiB",
            "sglang 0.5.16 logs of one H200, triton without graphs",
            Basis.FITTED,
        )
    small = [table for table in state.tables if table.bytes < _SMALL]
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
    for table in state.tables:
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
            prefill_graph_bytes(state.config),
            LedgerPhase.GRAPHS,
            "--cuda-graph-max-bs-prefill",
            f"{PREFILL_MIB_PER_SIZE} MiB x {resolved.prefill_graph_sizes} sizes (SGLang's rule of thumb), and the "
            f"activations of {resolved.prefill_graph_tokens:,} tokens",
            f"sglang {rules.version} reserve_for_graph_mb; one log of 0.5.11",
            Basis.ASSUMED,
        )
    memory = memory_of(state.config.calibration)
    if captured:
        yield Allocation(
            "CUDA graphs: captured",
            captured_bytes(state.config, state.batch),
            LedgerPhase.GRAPHS,
            "--cuda-graph-max-bs",
            f"{GRAPH_MIB_PER_BATCH} MiB x {state.batch} (SGLang's own rule of thumb), {captured} sizes"
            + (", and as much for the draft" if state.config.draft else "")
            + (f", {memory.graphs_share:.2f} of it as measured" if memory else ""),
            memory.source if memory else f"sglang {rules.version} reserve_for_graph_mb",
            Basis.FITTED if memory else Basis.ASSUMED,
        )


def _runtime_lines(state: SglangState) -> Iterator[Allocation]:
    """What a request adds once the server answers."""
    config, prompt, offloaded = state.config, state.prompt, state.memory.load.offloaded
    chunk = config.resolved.chunked_prefill_size
    activations, copies = prefill_bytes(config, prompt)
    tokens = min(chunk if chunk > 0 else prompt, prompt)
    yield Allocation(
        "Prefill activations",
        activations,
        LedgerPhase.RUNTIME,
        "--chunked-prefill-size",
        f"{tokens:,} tokens x residual stream, QKV and the widest MLP"
        if activations
        else "in the memory of prefill's graphs",
        "counted from the layer sizes; no server was measured",
        Basis.ASSUMED,
    )
    if offloaded:
        yield Allocation(
            "Offloaded layer, copied back",
            returned_bytes(config, offloaded),
            LedgerPhase.RUNTIME,
            "the size of a layer",
            "one layer's weights: a forward pass copies each offloaded layer to the GPU and drops it",
            f"sglang {config.rules.version} srt/utils/offloader.py: OffloaderV1; peak assumed to be one layer",
            Basis.ASSUMED,
        )
    if config.elastic is not None and not config.elastic.pools:
        row = row_bytes(state.context_length, state.request.context)
        yield Allocation(
            "Rows of the elastic table",
            state.request.concurrency * row,
            LedgerPhase.RUNTIME,
            "requests x their length",
            f"{state.request.concurrency} x {row:,} B",
            "farspan.integrations.sglang: elastic_requests",
            Basis.MIRRORED,
        )
    if copies:
        yield Allocation(
            "Prefix tree: index copies",
            copies,
            LedgerPhase.RUNTIME,
            "the square of the prompt over --chunked-prefill-size",
            f"8 B x C k(k+1)/2, C = {chunk:,}, N = {prompt:,}",
            f"sglang {config.rules.version} srt/mem_cache/radix_cache.py: a node keeps the whole index array",
            Basis.MIRRORED,
        )


def _host_lines(state: SglangState) -> Iterator[Allocation]:
    """What one rank keeps in the machine's memory: offloaded weights, HiCache's pools."""
    load, tier, rules = state.memory.load, state.tier, state.config.rules
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
