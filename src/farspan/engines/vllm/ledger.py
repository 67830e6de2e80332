"""vLLM's memory ledger: every allocation on one GPU, in the order a server makes them."""

from __future__ import annotations

from functools import lru_cache

from farspan.engines.vllm.budget import (
    ACTIVATION_COPIES,
    COLLECTIVE_BYTES,
    CONTEXT_BYTES,
    GRAPH_BYTES,
    NON_TORCH_BYTES,
    ProfileRun,
    weight_bytes,
)
from farspan.engines.vllm.config import VllmConfig
from farspan.engines.vllm.defaults import BatchLimits
from farspan.engines.vllm.state import VllmState
from farspan.engines.vllm.tables import ENTRY_BYTES, row_blocks
from farspan.models.weights import rank_weight_bytes
from farspan.planner.ledger import Allocation, Basis, LedgerPhase, MemoryLedger
from farspan.sizes import format_bytes

_FIT = "fitted to vllm 0.12.0 (Scout, TP 8) and 0.24.0 (one rank of it), both on H200"
_V1_SOURCE = "vllm {version} v1/worker/block_table.py: MultiGroupBlockTable"
_V2_SOURCE = "vllm {version} v1/worker/gpu/block_table.py: BlockTables"


def make_ledger(state: VllmState) -> MemoryLedger:
    """Every allocation of one rank."""
    config, budget = state.config, state.memory.budget
    lines = [
        *_load_lines(config, budget.offloaded),
        *_profile_lines(config, state.limits, budget.profile),
        *_pool_lines(state),
        *_table_lines(state),
        *_host_lines(state),
    ]
    if not config.given.enforce_eager:
        lines.append(
            Allocation(
                name="CUDA graphs",
                bytes=GRAPH_BYTES,
                when=LedgerPhase.GRAPHS,
                grows_with="number of capture sizes; not with the context",
                formula="0.70 GiB, as one server with 51 piecewise sizes took",
                source=_FIT,
                basis=Basis.FITTED,
            )
        )
    return MemoryLedger(tuple(lines), config.gpu.memory_bytes)


@lru_cache(maxsize=256)
def _load_lines(config: VllmConfig, offloaded: int) -> tuple[Allocation, ...]:
    model, tp, rules = config.model, config.tp, config.rules
    weights, rope = weight_bytes(model, tp)
    parts = rank_weight_bytes(model, tp).by_part
    listed = ", ".join(f"{part.value} {format_bytes(size)}" for part, size in parts.items() if size)
    tables = " + ".join(f"{rope.positions:,} x {rope.rotary_dim}" for rope in model.ropes) or "none"
    return (
        Allocation(
            name="CUDA context",
            bytes=CONTEXT_BYTES,
            when=LedgerPhase.LOAD,
            grows_with="",
            formula="0.55 GiB, outside the budget: taken before vLLM's first snapshot",
            source="assumed for a CUDA 12 or 13 driver",
            basis=Basis.ASSUMED,
        ),
        Allocation(
            name="weights",
            bytes=weights - offloaded,
            when=LedgerPhase.LOAD,
            grows_with="parameters over --tensor-parallel-size",
            formula=listed + (f", less {format_bytes(offloaded)} in RAM" if offloaded else ""),
            source=f"vllm {rules.version} v1/worker/gpu_model_runner.py: load_model",
            basis=Basis.MIRRORED,
        ),
        Allocation(
            name="RoPE tables",
            bytes=rope,
            when=LedgerPhase.LOAD,
            grows_with="max_position_embeddings of the model, not --max-model-len",
            formula=f"({tables}) x {model.dtype_bytes} B, on every rank",
            source=f"vllm {rules.version} model_executor/layers/rotary_embedding: _compute_cos_sin_cache",
            basis=Basis.MIRRORED,
        ),
    )


@lru_cache(maxsize=1024)
def _profile_lines(config: VllmConfig, limits: BatchLimits, profile: ProfileRun) -> tuple[Allocation, ...]:
    model, rules = config.model, config.rules
    by_forward = profile.forward >= profile.sampler
    lines = [
        Allocation(
            name="kernels and workspaces outside torch",
            bytes=NON_TORCH_BYTES,
            when=LedgerPhase.PROFILE,
            grows_with="",
            formula="0.45 GiB",
            source=_FIT,
            basis=Basis.FITTED,
        )
    ]
    if config.tp > 1:
        lines.append(
            Allocation(
                name="collectives (NCCL, custom all-reduce)",
                bytes=COLLECTIVE_BYTES,
                when=LedgerPhase.PROFILE,
                grows_with="ranks",
                formula="1.57 GiB",
                source=_FIT,
                basis=Basis.FITTED,
            )
        )
    if profile.images:
        lines.append(
            Allocation(
                name="images through the vision tower",
                bytes=profile.images,
                when=LedgerPhase.PROFILE,
                grows_with="--limit-mm-per-prompt",
                formula="0.50 GiB; 0 with --limit-mm-per-prompt '{\"image\": 0}'",
                source=_FIT,
                basis=Basis.FITTED,
            )
        )
    if by_forward:
        formula = (
            f"{ACTIVATION_COPIES} x {limits.tokens:,} tokens x {model.hidden_size} x {model.dtype_bytes} B"
        )
    else:
        formula = f"{limits.requests} requests x {model.vocab_size:,} logits x {rules.sampler_bytes} B"
    lines.append(
        Allocation(
            name="activations of the largest step" if by_forward else "sampler of the largest step",
            bytes=max(profile.forward, profile.sampler),
            when=LedgerPhase.PROFILE,
            grows_with="--max-num-batched-tokens" if by_forward else "--max-num-seqs",
            formula=formula,
            source=_FIT,
            basis=Basis.FITTED,
        )
    )
    return tuple(lines)


def _host_lines(state: VllmState) -> list[Allocation]:
    """What one rank keeps in the machine's memory because it was asked to."""
    tp, rules, offloaded = state.config.tp, state.config.rules, state.memory.budget.offloaded
    kv_offload = state.config.given.kv_offload_bytes
    lines = []
    if offloaded:
        lines.append(
            Allocation(
                name="weights kept in RAM",
                bytes=offloaded,
                when=LedgerPhase.LOAD,
                grows_with="--cpu-offload-gb",
                formula=f"{format_bytes(offloaded)}, rounded up by the engine to a whole parameter",
                source=f"vllm {rules.version} "
                + (
                    "model_executor/models/utils.py: maybe_offload_to_cpu"
                    if rules.offload_needs_one_group
                    else "model_executor/offloader/uva.py: UVAOffloader"
                ),
                basis=Basis.MIRRORED,
                on_host=True,
            )
        )
    if kv_offload:
        lines.append(
            Allocation(
                name="finished KV kept in RAM",
                bytes=kv_offload // tp,
                when=LedgerPhase.POOL,
                grows_with="--kv-offloading-size, shared out over the ranks",
                formula=f"{format_bytes(kv_offload)} / {tp} ranks",
                source=f"vllm {rules.version} config/vllm.py: kv_offloading_size",
                basis=Basis.MIRRORED,
                on_host=True,
            )
        )
    return lines


def _pool_lines(state: VllmState) -> list[Allocation]:
    layout, budget, num_blocks = state.layout, state.memory.budget, state.memory.num_blocks
    groups = len(layout.groups)
    return [
        Allocation(
            name="KV pool",
            bytes=num_blocks * layout.bytes_per_block,
            when=LedgerPhase.POOL,
            grows_with="--gpu-memory-utilization; not with the context",
            formula=(
                f"{num_blocks:,} blocks x {layout.bytes_per_block:,} B, shared by {groups} KV group"
                f"{'s' if groups > 1 else ''}; {budget.source}"
            ),
            source=f"vllm {state.config.rules.version} v1/core: get_kv_cache_config_from_groups",
            basis=Basis.MIRRORED if budget.given else Basis.FITTED,
        )
    ]


def _table_lines(state: VllmState) -> tuple[Allocation, ...]:
    """The block tables on the GPU, and what the host keeps for every possible token."""
    config, limits, max_model_len = state.config, state.limits, state.max_model_len
    rules, second, on_gpu = config.rules, state.memory.second_runner, state.tables
    source = (_V2_SOURCE if second else _V1_SOURCE).format(version=rules.version)
    rows = " + ".join(
        f"{row_blocks(group, max_model_len, aligned=second or rules.aligns_tables):,}"
        for group in state.layout.groups
    )
    copies = " x 2 copies" if second else ""
    lines = [
        Allocation(
            name="block tables",
            bytes=on_gpu,
            when=LedgerPhase.POOL,
            grows_with="--max-num-seqs x --max-model-len, and KV groups",
            formula=f"{limits.requests} requests x ({rows}) blocks x 4 B{copies}",
            source=source,
            basis=Basis.MIRRORED,
        )
    ]
    if second:
        lines.append(
            Allocation(
                name="token ids of every request (pinned host memory)",
                bytes=limits.requests * max_model_len * ENTRY_BYTES,
                when=LedgerPhase.LOAD,
                grows_with="--max-num-seqs x --max-model-len",
                formula=f"{limits.requests} requests x {max_model_len:,} tokens x 4 B",
                source=f"vllm {rules.version} v1/worker/gpu/states.py: RequestState",
                basis=Basis.MIRRORED,
                on_host=True,
            )
        )
    else:
        lines += [
            Allocation(
                name="block tables (pinned host copy)",
                bytes=on_gpu,
                when=LedgerPhase.POOL,
                grows_with="--max-num-seqs x --max-model-len, and KV groups",
                formula="as much as on the GPU",
                source=source,
                basis=Basis.MIRRORED,
                on_host=True,
            ),
            Allocation(
                name="token ids of every request (host, backed as prompts arrive)",
                bytes=limits.requests * max_model_len * (ENTRY_BYTES + 1),
                when=LedgerPhase.LOAD,
                grows_with="--max-num-seqs x --max-model-len",
                formula=f"{limits.requests} requests x {max_model_len:,} tokens x (4 + 1) B",
                source=f"vllm {rules.version} v1/worker/gpu_input_batch.py: InputBatch",
                basis=Basis.MIRRORED,
                on_host=True,
            ),
        ]
    return tuple(lines)
