"""vLLM's memory ledger: every allocation on one GPU, in the order a server makes them."""

from __future__ import annotations

from functools import lru_cache

from farspan.engines.vllm.batch import BatchLimits
from farspan.engines.vllm.budget import (
    ACTIVATION_COPIES,
    COLLECTIVE_BYTES,
    CONTEXT_BYTES,
    GRAPH_BYTES,
    NON_TORCH_BYTES,
    Budget,
    ProfileRun,
    weight_bytes,
)
from farspan.engines.vllm.pool import VllmKvLayout
from farspan.engines.vllm.tables import table_lines
from farspan.engines.vllm.versions import VllmRules
from farspan.hardware.gpu import Gpu
from farspan.models.spec import ModelSpec
from farspan.models.weights import rank_weight_bytes
from farspan.planner.ledger import Allocation, Basis, LedgerPhase, MemoryLedger
from farspan.sizes import format_bytes

_FIT = "fitted to vllm 0.12.0 (Scout, TP 8) and 0.24.0 (one rank of it), both on H200"


def make_ledger(
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    layout: VllmKvLayout,
    num_blocks: int,
    max_model_len: int,
    limits: BatchLimits,
    budget: Budget,
    rules: VllmRules,
    *,
    graphs: bool,
    kv_offload_bytes: int,
) -> MemoryLedger:
    """Every allocation of one rank."""
    lines = [
        *_load_lines(model, tp, budget.offloaded, rules),
        *_profile_lines(model, tp, limits, budget.profile, rules),
        *_pool_lines(layout, num_blocks, budget, rules),
        *table_lines(model, layout, max_model_len, limits, rules),
        *_host_lines(tp, budget.offloaded, kv_offload_bytes, rules),
    ]
    if graphs:
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
    return MemoryLedger(tuple(lines), gpu.memory_bytes)


@lru_cache(maxsize=256)
def _load_lines(model: ModelSpec, tp: int, offloaded: int, rules: VllmRules) -> tuple[Allocation, ...]:
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
def _profile_lines(
    model: ModelSpec, tp: int, limits: BatchLimits, profile: ProfileRun, rules: VllmRules
) -> tuple[Allocation, ...]:
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
    if tp > 1:
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


def _host_lines(tp: int, offloaded: int, kv_offload: int, rules: VllmRules) -> list[Allocation]:
    """What one rank keeps in the machine's memory because it was asked to."""
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


def _pool_lines(layout: VllmKvLayout, num_blocks: int, budget: Budget, rules: VllmRules) -> list[Allocation]:
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
            source=f"vllm {rules.version} v1/core: get_kv_cache_config_from_groups",
            basis=Basis.MIRRORED if budget.given else Basis.FITTED,
        )
    ]


def beside_tables(layout: VllmKvLayout, num_blocks: int, budget: Budget, *, graphs: bool) -> int:
    """Bytes of every line on the GPU but the block tables: to decide, many times over, whether they fit."""
    pool = num_blocks * layout.bytes_per_block
    fixed = CONTEXT_BYTES + budget.weights + budget.rope + budget.profile.total
    return fixed + pool + (GRAPH_BYTES if graphs else 0)
