"""vLLM's memory ledger: every allocation on one GPU, in the order a server makes them."""

from __future__ import annotations

from functools import lru_cache

from farspan.engines.vllm.budget import CONTEXT_BYTES, rank_weights
from farspan.engines.vllm.config import VllmConfig
from farspan.engines.vllm.defaults import BatchLimits
from farspan.engines.vllm.graphs import capture_sizes, graph_bytes
from farspan.engines.vllm.profile_run import (
    BUFFER_BYTES,
    CUBLAS_WORKSPACE_BYTES,
    NORM_WIDTHS,
    NORM_WIDTHS_FLOAT32,
    ProfileRun,
    sampler_logit_bytes,
)
from farspan.engines.vllm.state import VllmState
from farspan.engines.vllm.tables import ENTRY_BYTES, row_blocks
from farspan.engines.vllm.versions import VllmRules
from farspan.models.weights import rank_weight_bytes
from farspan.planner.calibration import memory_of
from farspan.planner.ledger import Allocation, Basis, LedgerPhase, MemoryLedger
from farspan.sizes import GIB, format_bytes

_FIT = "fitted to start-up logs of public servers, vllm 0.10.2 to 0.24.0 (docs/accuracy.md)"
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
    graphs, memory = graph_bytes(config, state.limits), memory_of(config.calibration)
    if graphs:
        lines.append(
            Allocation(
                name="CUDA graphs",
                bytes=graphs,
                when=LedgerPhase.GRAPHS,
                grows_with="capture sizes, layers and experts; not with the context",
                formula=f"{len(capture_sizes(config, state.limits))} batch sizes, {config.model.num_layers} layers",
                source=_FIT if memory is None else memory.source,
                basis=Basis.FITTED,
            )
        )
    return MemoryLedger(tuple(lines), config.gpu.memory_bytes)


@lru_cache(maxsize=256)
def _load_lines(config: VllmConfig, offloaded: int) -> tuple[Allocation, ...]:
    model, tp, rules = config.model, config.tp, config.rules
    loaded = rank_weights(config)
    parts = rank_weight_bytes(model, tp).by_part
    listed = ", ".join(f"{part.value} {format_bytes(size)}" for part, size in parts.items() if size)
    listed += ", vision whole on every rank" if config.given.whole_encoder and tp > 1 else ""
    listed += f", absorbed latent projections {format_bytes(loaded.absorbed)}" if loaded.absorbed else ""
    listed += f", LoRA buffers {format_bytes(loaded.adapters)}" if loaded.adapters else ""
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
            bytes=loaded.weights - offloaded,
            when=LedgerPhase.LOAD,
            grows_with="parameters over --tensor-parallel-size",
            formula=listed + (f", less {format_bytes(offloaded)} in RAM" if offloaded else ""),
            source=f"vllm {rules.version} v1/worker/gpu_model_runner.py: load_model",
            basis=Basis.MIRRORED,
        ),
        Allocation(
            name="RoPE tables",
            bytes=loaded.rope,
            when=LedgerPhase.LOAD,
            grows_with="max_position_embeddings of the model, not --max-model-len",
            formula=f"({tables}) x {model.dtype_bytes} B, on every rank",
            source=f"vllm {rules.version} model_executor/layers/rotary_embedding: _compute_cos_sin_cache",
            basis=Basis.MIRRORED,
        ),
        *(() if not loaded.rounding else (_rounding_line(loaded.rounding, rules),)),
    )


def _rounding_line(size: int, rules: VllmRules) -> Allocation:
    scoped = f", vllm {rules.version} v1/worker/gpu_worker.py: load_model" if rules.max_split_bytes else ""
    return Allocation(
        name="rounding by torch's allocator",
        bytes=size,
        when=LedgerPhase.LOAD,
        grows_with="weights whose size is no whole number of 2 MiB",
        formula="weights of 10 MiB and more get whole segments; what is left is counted where it is not split off",
        source=f"torch c10/cuda/CUDACachingAllocator.cpp: should_split{scoped}",
        basis=Basis.MIRRORED,
    )


@lru_cache(maxsize=1024)
def _profile_lines(config: VllmConfig, limits: BatchLimits, profile: ProfileRun) -> tuple[Allocation, ...]:
    """The profile run's peak in parts; they add up to what the budget loses."""
    rules = config.rules
    runner = f"vllm {rules.version} v1/worker/gpu_model_runner.py: profile_run"
    memory = memory_of(config.calibration)
    kernels = "kernels and handles"
    if memory is not None and memory.outside_torch_bytes:
        kernels += f", {memory.outside_torch_bytes / GIB:+.2f} GiB as measured"
    lines = [
        _profile_line(
            "kernels and workspaces outside torch",
            profile.base,
            "",
            kernels,
            memory.source if memory is not None else _FIT,
        ),
        _profile_line(
            "collectives (NCCL, custom all-reduce)",
            profile.collectives,
            "ranks, and how they are linked",
            f"{config.tp} ranks over {config.gpu.link}",
            _FIT,
        ),
    ]
    if profile.encoder > profile.images + profile.workspace + profile.step:
        lines.append(
            _profile_line(
                "vision tower at its largest images",
                profile.encoder,
                "--max-num-batched-tokens, --limit-mm-per-prompt",
                "patches x 2 B x (2 x intermediate + 4.25 x hidden), and the pixels",
                runner,
                Basis.ASSUMED,
            )
        )
        return tuple(line for line in lines if line.bytes)
    by_norm, by_sampler = profile.largest == "norm", profile.largest == "sampler"
    lines += [
        _profile_line(
            "images through the vision tower",
            profile.images,
            "--max-num-batched-tokens, --limit-mm-per-prompt",
            "pixels and outputs of the largest images, kept; 0 with --limit-mm-per-prompt '{\"image\": 0}'",
            runner,
            Basis.MIRRORED,
        ),
        _profile_line(
            "buffers of the experts",
            profile.workspace,
            "--max-num-batched-tokens",
            f"{limits.tokens:,} tokens x experts a token x two widths, kept between steps",
            f"vllm {rules.version} model_executor/layers/fused_moe: TritonExperts.workspace_shapes",
            Basis.MIRRORED,
        ),
        _profile_line(
            "sampler of the largest step" if by_sampler else "activations of the largest step",
            profile.step,
            "--max-num-seqs" if by_sampler else "--max-num-batched-tokens",
            _step_formula(config, limits, profile),
            *(
                (f"vllm {rules.version} ir/ops/layernorm.py: fused_add_rms_norm", Basis.MIRRORED)
                if by_norm
                else (_FIT, Basis.FITTED)
            ),
        ),
    ]
    return tuple(line for line in lines if line.bytes)


def _profile_line(
    name: str, size: int, grows_with: str, formula: str, source: str, basis: Basis = Basis.FITTED
) -> Allocation:
    return Allocation(name, size, LedgerPhase.PROFILE, grows_with, formula, source, basis)


def _step_formula(config: VllmConfig, limits: BatchLimits, profile: ProfileRun) -> str:
    model, tokens, size = config.model, f"{limits.tokens:,} tokens", config.model.dtype_bytes
    if profile.largest == "norm":
        copies = f"{NORM_WIDTHS} x {size} B + {NORM_WIDTHS_FLOAT32} x 4 B"
        workspace = format_bytes(CUBLAS_WORKSPACE_BYTES)
        return f"{tokens} x {model.hidden_size} x ({copies}) in a norm, {workspace} of cuBLAS"
    if profile.largest == "forward":
        return f"{tokens} x {size} B x (3 x MLP width / TP + 4.25 x {model.hidden_size})"
    rows = min(limits.requests, limits.tokens)
    return (
        f"{rows} requests x {model.vocab_size:,} logits x {sampler_logit_bytes(config):g} B, the hidden states of "
        f"{limits.tokens + rows:,} tokens, {format_bytes(BUFFER_BYTES)} of buffers"
    )


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
