"""Where a common belief about vLLM is wrong, or a trap is near, with the numbers of the request."""

from __future__ import annotations

from farspan.engines.vllm.flag_checks import OFFLOAD_DETAILS
from farspan.engines.vllm.flags import (
    CHUNKED_HYBRID_ENV,
    LONG_CONTEXT_ENV,
    MAX_MODEL_LEN,
    MAX_NUM_SEQS,
    normalized,
)
from farspan.engines.vllm.printed import kv_cache_size_tokens
from farspan.engines.vllm.state import VllmState
from farspan.engines.vllm.versions import KNOWN_VERSIONS, CapacityCheck, SizeLine, is_listed
from farspan.models.spec import AttentionKind, KvDtype
from farspan.planner.remarks import Remarks, flags_without_effect
from farspan.planner.timing import offloaded_weights_note
from farspan.sizes import GIB, format_bytes

_TABLES_WORTH_SAYING = 2 * GIB
_INTEGRATED = (12, 1)  # GB10


def find_remarks(state: VllmState, *, starts: bool) -> Remarks:
    """Remarks about one planned server, the most costly mistake first."""
    return Remarks(
        warnings=(
            *(_waits_for_ever(state) if starts else ()),
            *_beyond_the_model(state),
            *_hybrid_turned_on(state),
            *_tables(state),
            *_unusable_fp8(state),
            *_unlisted(state),
            *_shared_with_host(state),
        ),
        notes=(
            *_hybrid_is_off(state),
            *_needless_fp8(state),
            *_offload(state),
            *(_printed_size(state) if starts else ()),
            *_parallel(state),
            *_units(state),
            *_recurrent(state),
        ),
    )


def _beyond_the_model(state: VllmState) -> list[str]:
    longest = state.request.model.max_position_embeddings
    if state.max_model_len <= longest:
        return []
    return [
        f"{MAX_MODEL_LEN} {state.max_model_len} is above the {longest:,} positions of the config: "
        f"{LONG_CONTEXT_ENV} only silences the check, and answers beyond may be nonsense. "
        "--rope-scaling gives the model a longer range."
    ]


def _unlisted(state: VllmState) -> list[str]:
    architecture = state.request.model.architecture
    if is_listed(architecture):
        return []
    return [
        f"No vLLM up to {KNOWN_VERSIONS[-1]} lists {architecture}: planned as if vLLM treated its layers "
        "like those of other models."
    ]


def _shared_with_host(state: VllmState) -> list[str]:
    """vllm utils/mem_utils.py: MemorySnapshot.measure, is_integrated_gpu. The figures: docs/accuracy.md."""
    gpu = state.request.gpu
    if gpu.capability != _INTEGRATED:
        return []
    return [
        f"{gpu.name} shares its memory with the host, and vLLM counts what processes of the host take while it "
        "starts: public servers had 0 to 5 GiB less KV cache than planned, two of unknown flags 13. Its log says "
        "what is left: Available KV cache memory."
    ]


def _waits_for_ever(state: VllmState) -> list[str]:
    if state.memory.capacity >= state.max_model_len:
        return []
    checked = "counts windowed layers as if hybrid groups were on"
    if state.rules.check is CapacityCheck.FIRST_GROUP:
        checked = "counts the first KV group only"
    return [
        f"The server starts with {MAX_MODEL_LEN} {state.max_model_len}, since the check of vLLM "
        f"{state.rules.version} {checked}, but a request above {state.memory.capacity:,} tokens waits for ever: KV "
        "usage climbs, falls to 0, and no line is logged. It recovers when the client goes away."
    ]


def _hybrid_turned_on(state: VllmState) -> list[str]:
    if not state.memory.env_chosen:
        return []
    return [
        f"vLLM {state.rules.version} keeps every token in every layer unless {CHUNKED_HYBRID_ENV}=1 is "
        "set: this plan sets it."
    ]


def _hybrid_is_off(state: VllmState) -> list[str]:
    if state.memory.env_chosen or not state.keeps_all_tokens:
        return []
    return [
        f"Hybrid KV groups are off ({state.memory.hybrid.off_because}): windowed layers keep every token, so one "
        f"request of {state.request.context:,} tokens takes "
        f"{format_bytes(state.request_kv_bytes)} of this server, and the longest is "
        f"{state.memory.capacity:,} tokens."
    ]


def _tables(state: VllmState) -> list[str]:
    if state.requests_chosen and state.default_tables_fit:
        return [
            f"With the default {MAX_NUM_SEQS} {state.default_requests} vLLM would not start: each request keeps its "
            "recurrent state in a block of its own, and the cache would have fewer. This plan sets "
            f"{MAX_NUM_SEQS} {state.limits.requests}."
        ]
    if state.requests_chosen:
        return [
            f"With the default {MAX_NUM_SEQS} {state.default_requests} the block tables alone would take "
            f"{format_bytes(state.default_tables)} a GPU outside the budget, and the server would run out of "
            f"memory: this plan sets {MAX_NUM_SEQS} {state.limits.requests}."
        ]
    if state.tables < _TABLES_WORTH_SAYING:
        return []
    return [
        f"The block tables take {format_bytes(state.tables)} a GPU outside --gpu-memory-utilization: a row "
        f"of {state.max_model_len:,} tokens for each of {state.limits.requests} requests. {MAX_NUM_SEQS} 8 "
        "makes them negligible."
    ]


def _needless_fp8(state: VllmState) -> list[str]:
    if not state.memory.kv_dtype.is_fp8 or state.memory.kv_dtype is KvDtype.FP8_DS_MLA:
        return []
    own_figure = state.request.available_kv_bytes is not None
    if not own_figure and state.holds_with(KvDtype.AUTO) < state.request.concurrency:
        return []
    longest = state.capacity_with(KvDtype.AUTO)
    if longest < state.request.context:
        return []
    return [
        f"FP8 is not needed for {state.request.context:,} tokens: with the model's own KV type one "
        f"request may have {longest:,}."
    ]


def _unusable_fp8(state: VllmState) -> list[str]:
    if state.memory.kv_dtype is not KvDtype.FP8_E5M2:
        return []
    return [
        "E5M2 cannot be used with a quantized query (FlashAttention 3 on Hopper to 0.20, TensorRT-LLM "
        "kernels on Blackwell): use fp8_e4m3. The assertion has nothing to do with --calculate-kv-scales."
    ]


def _offload(state: VllmState) -> list[str]:
    found = offloaded_weights_note(state.memory.budget.offloaded)
    found += flags_without_effect(state.request, OFFLOAD_DETAILS, "--offload-group-size")
    if state.config.given.connector:
        found.append(
            "A KV connector keeps or moves finished KV; it does not raise the longest request: every token of a "
            "running request must be in the GPU's pool."
        )
    return found


def _printed_size(state: VllmState) -> list[str]:
    if len(state.layout.groups) < 2:
        return []
    printed = kv_cache_size_tokens(
        state.layout, state.memory.num_blocks, state.max_model_len, state.memory.in_flight
    )
    if state.rules.size_line is SizeLine.DIVIDED:
        return [
            f'The log will say "GPU KV cache size: {printed:,} tokens", the same with hybrid groups on and '
            f"off: it is not the longest request, which is {state.memory.capacity:,} tokens."
        ]
    return [
        f'The "GPU KV cache size: {printed:,} tokens" of the log is the concurrency times {MAX_MODEL_LEN}: '
        "it changes when that flag does, though the memory does not."
    ]


def _parallel(state: VllmState) -> list[str]:
    tp = state.request.tp
    if tp == 1:
        return []
    if any(True for _ in state.request.model.layers_of(AttentionKind.MLA)):
        return [
            f"Each of the {tp} ranks keeps a copy of the whole latent cache: more ranks do not share it out."
        ]
    heads = max((layer.num_kv_heads for layer in state.request.model.layers), default=0)
    if heads and tp > heads:
        return [
            f"TP {tp} is above the {heads} KV heads, so ranks keep copies: a token takes as much on each GPU "
            f"as at TP {heads}."
        ]
    return [
        f"The figures are for the whole server, not for one GPU: each of {tp} ranks keeps its share of the "
        "heads of the same tokens. Do not multiply them by TP."
    ]


def _units(state: VllmState) -> list[str]:
    text = normalized(state.request.engine_flags).get(MAX_MODEL_LEN) or ""
    if text[-1:] in ("K", "M", "G"):
        return [
            f"vLLM reads {MAX_MODEL_LEN} {text} as {state.max_model_len:,}: its capital units are binary."
        ]
    return []


def _recurrent(state: VllmState) -> list[str]:
    if not any(True for _ in state.request.model.layers_of(AttentionKind.LINEAR)):
        return []
    return [
        f"Blocks of {state.layout.block_size} tokens make an attention page as large as a recurrent state; a "
        "backend that checkpoints states during the prompt keeps one state more a request than counted here."
    ]
