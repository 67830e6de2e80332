"""Why a vLLM server does not start, in the order vLLM finds out."""

from __future__ import annotations

from farspan.engines.vllm.budget import gib
from farspan.engines.vllm.dropped import has_no_loader, last_version_with
from farspan.engines.vllm.flags import LONG_CONTEXT_ENV, MAX_MODEL_LEN, MAX_NUM_SEQS
from farspan.engines.vllm.flashinfer import oldest_capability
from farspan.engines.vllm.state import VllmState
from farspan.engines.vllm.versions import first_version_with
from farspan.models.spec import AttentionKind, KvDtype
from farspan.sizes import format_bytes


def refusal(state: VllmState) -> str:
    """Why the server does not start, in one sentence; empty when it does."""
    return _by_config(state) or _by_check(state) or _by_states(state) or _by_memory(state)


def _by_config(state: VllmState) -> str:
    model, rules = state.request.model, state.rules
    first = first_version_with(model.architecture, rules)
    if first:
        return f"vLLM {rules.version} does not know {model.architecture}; {first} does"
    last = last_version_with(model.architecture, rules.version)
    if last:
        return f"vLLM {rules.version} has dropped {model.architecture}; {last} was the last version that serves it"
    if model.quantization is not None and has_no_loader(model.quantization.method, rules.version):
        return (
            f"vLLM {rules.version} has no loader for {model.quantization.method} checkpoints: "
            "give it one quantized otherwise, or take SGLang"
        )
    if state.memory.hybrid.refusal:
        return state.memory.hybrid.refusal
    limit = model.max_position_embeddings
    if state.max_model_len > limit and not state.config.given.long_context_env:
        return (
            f"{MAX_MODEL_LEN} {state.max_model_len} is above the model's {limit:,} positions; "
            f"{LONG_CONTEXT_ENV}=1 would allow it, with answers nobody vouches for"
        )
    groups = state.layout.groups
    alone = len(groups) == 1 and groups[0].spec.block_size == state.memory.block_size
    if rules.offload_needs_one_group and state.config.given.cpu_offload_bytes and not alone:
        return (
            f"vLLM {rules.version} asserts that weight offload goes with one KV group, and this model has "
            f"{len(groups)}: drop --cpu-offload-gb or take 0.20.0"
        )
    if _needs_native_fp8(state):
        return (
            f"only Triton's kernels serve this model on {state.request.gpu.name}, and they read no FP8 KV cache below "
            "compute capability 8.9: use bfloat16"
        )
    if _e5m2_asserts(state):
        return (
            "fp8_e5m2 meets a quantized query and vLLM asserts kv_cache_dtype in {fp8, fp8_e4m3}: "
            "use fp8_e4m3"
        )
    return ""


def _needs_native_fp8(state: VllmState) -> bool:
    """Whether FP8 KV meets Triton on a card without FP8 (v1/attention/ops/triton_reshape_and_cache_flash.py).

    FlashInfer, which serves the others there, converts it itself; it takes neither sinks before Blackwell nor MLA
    (v1/attention/backends/flashinfer.py: supports_sink; platforms/cuda.py: _get_backend_priorities).
    """
    gpu, model = state.request.gpu, state.request.model
    if gpu.is_amd or not state.memory.kv_dtype.is_fp8 or not (7, 0) <= gpu.capability < (8, 9):
        return False
    latent = next(iter(model.layers_of(AttentionKind.MLA)), None) is not None
    sinks = any(tensor.name.endswith(".sinks") for tensor in model.weights)
    return latent or sinks or gpu.capability < oldest_capability(state.rules.version)


def _e5m2_asserts(state: VllmState) -> bool:
    """Whether E5M2 meets a query quantized to E4M3 (vllm 0.12.0 attention/layer.py: Attention.forward)."""
    if state.memory.kv_dtype is not KvDtype.FP8_E5M2:
        return False
    generation = state.request.gpu.capability[0]
    return generation == 10 or (generation == 9 and state.rules.e5m2_meets_quantized_query)


def _by_check(state: VllmState) -> str:
    """vllm v1/core/kv_cache_utils.py: check_enough_kv_cache_memory."""
    layout, budget, length = state.layout, state.memory.budget, state.max_model_len
    has = layout.check_bytes(state.memory.available)
    if has <= 0 and budget.given:
        return f"vLLM refuses to start: {gib(state.memory.available)} for KV cache does not hold one block"
    if has <= 0:
        return (
            f"vLLM refuses to start: of {gib(budget.requested)} it may use, weights take "
            f"{gib(budget.loaded)} and the profile run {gib(budget.profile.total)}, "
            "which leaves no memory for cache blocks"
        )
    if layout.passes_check(state.memory.available, length, state.memory.in_flight):
        return ""
    estimate = layout.estimated_max_model_len(state.memory.available, length, state.memory.in_flight)
    needs = gib(layout.needed_bytes(length, state.memory.in_flight))
    return (
        f"vLLM refuses to start: {length:,} tokens need {needs} of KV cache and {gib(has)} is available; "
        f"estimated maximum model length {estimate:,}"
    )


def _by_states(state: VllmState) -> str:
    """Every request of a captured decode step needs a block for its state."""
    if not state.states_lacking:
        return ""
    return (
        f"vLLM refuses to start: {MAX_NUM_SEQS} {state.limits.requests} exceeds the {state.memory.num_blocks} blocks "
        f"of the cache, and each request keeps its recurrent state in one; {MAX_NUM_SEQS} {state.memory.num_blocks} "
        "or fewer starts"
    )


def _by_memory(state: VllmState) -> str:
    """What the budget does not count, beside it: block tables, graphs, the context."""
    if state.lacking <= 0:
        return ""
    return (
        f"{format_bytes(state.lacking)} short while the server warms up: the budget takes "
        f"{format_bytes(state.memory.budget.requested)} and the block tables {format_bytes(state.tables)} beside "
        f"it; lower --gpu-memory-utilization or {MAX_NUM_SEQS}"
    )
