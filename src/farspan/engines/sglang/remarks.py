"""Where a common belief about SGLang is wrong, or a trap is near, with the numbers of the request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from farspan.engines.sglang.config import SglangConfig
from farspan.engines.sglang.elastic_figures import elastic_notes
from farspan.engines.sglang.flag_checks import OFFLOAD_DETAILS
from farspan.engines.sglang.footprint import drafted_tokens
from farspan.engines.sglang.hicache import hicache_remarks
from farspan.engines.sglang.state import SglangState
from farspan.engines.sglang.tables import radix_copy_bytes, request_table_bytes
from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.planner.remarks import Remarks, flags_without_effect
from farspan.planner.timing import offloaded_weights_note
from farspan.sizes import GIB, format_bytes

_WORTH_SAYING = GIB
_SMALL_ROWS = 8


def find_remarks(state: SglangState, completed: Callable[[Mapping[str, str | None]], str]) -> Remarks:
    """Remarks about one planned server, the most costly mistake first.

    Args:
        state: The server.
        completed: Flags to add, with whatever they need beside them, as words; empty when the server would not
            serve with them.
    """
    return Remarks.join((_warnings(state), _notes(state, completed), hicache_remarks(state.config)))


def _warnings(state: SglangState) -> Remarks:
    config, limits = state.config, state.limits
    found = [*_tables(state), *_wrong_answers(state)]
    if limits.hangs_above:
        found.append(
            f"A prompt above {limits.hangs_above:,} tokens (the window pool) waits for ever, without an "
            f"error, in {config.rules.version}."
        )
    if state.memory.sizes.full_tokens >= state.context_length:
        found.append(
            f"With --context-length {state.context_length} the longest prompt is "
            f"{limits.longest_prompt:,} tokens; one more is answered with HTTP 400."
        )
    return Remarks(warnings=tuple(found))


def _notes(state: SglangState, completed: Callable[[Mapping[str, str | None]], str]) -> Remarks:
    request, config = state.request, state.config
    found = [
        *_costs(state, completed),
        *offloaded_weights_note(state.memory.load.offloaded),
        *flags_without_effect(request, OFFLOAD_DETAILS, "--offload-group-size"),
        *elastic_notes(state),
        *_draft_notes(config),
    ]
    heads = _kv_heads(request.model)
    if not config.layout.latent and 0 < heads < request.tp:
        found.append(
            f"TP {request.tp} exceeds the {heads} KV heads: each rank keeps a copy, so more ranks do "
            "not hold more tokens of one request."
        )
    if config.resolved.fraction_is_default and config.resolved.multimodal:
        found.append(
            "The default --mem-fraction-static of a multimodal model depends on the fields of its vision "
            "tower's config; pass --mem-fraction-static to be exact."
        )
    return Remarks(notes=tuple(found))


def _draft_notes(config: SglangConfig) -> list[str]:
    """What was counted of speculative decoding; nothing without it."""
    draft, rules = config.draft, config.rules
    if config.given.speculation is None:
        return []
    found = ["Times are those of decoding without drafts; how many are accepted no plan can know."]
    if draft is not None:
        copied = ""
        if rules.counts_drafts and draft.copies:
            copied = (
                f"; while the pool is sized it also holds {format_bytes(draft.copies)} of embedding and output head, "
                "which it then gives back for the model's"
            )
        found.append(
            f"The draft is counted as {draft.words}, {format_bytes(draft.weights)} a GPU, with KV for every slot of "
            f"the pool{copied} (assumed)."
        )
    return found


def _tables(state: SglangState) -> list[str]:
    """The request table: what it costs, and why the fraction is no cure."""
    request, config, load = state.request, state.config, state.memory.load
    rows, left, length = state.rows, state.left_started, state.context_length
    if config.elastic is not None:
        return []
    drafted = drafted_tokens(config)
    table = request_table_bytes(rows, length, config.rules, drafted)
    small = request_table_bytes(max(_SMALL_ROWS, request.concurrency), length, config.rules, drafted)
    if table - small < _WORTH_SAYING:
        return []
    found = [
        f"The request-to-token table takes {format_bytes(table)} a GPU ({rows} rows), outside "
        f"--mem-fraction-static; --max-running-requests {max(_SMALL_ROWS, request.concurrency)} makes it "
        f"{format_bytes(small)}, and shrinks the CUDA-graph tables with it."
    ]
    if left < 0:
        fraction = config.resolved.mem_fraction_static + left / load.free_before
        budget = load.free_after - load.free_before * (1 - fraction)
        layout = config.layout
        cell = layout.cell_bytes + config.given.swa_ratio * layout.window_cell_bytes
        tokens = int(budget // cell) if budget > 0 else 0
        fall = f"--mem-fraction-static would have to fall to {max(fraction, 0):.2f}"
        if tokens >= request.context * request.concurrency:
            found.append(f"{fall} for the server to start, with a pool of about {tokens:,} tokens.")
        elif tokens > 0:
            found.append(
                f"Lowering the fraction is no cure: {fall} before the server starts, and the pool would then "
                f"hold about {tokens:,} tokens, too few for the request."
            )
        else:
            found.append(
                "Lowering --mem-fraction-static is no cure: no fraction leaves room for both the weights and "
                "the tables."
            )
    return found


@lru_cache(maxsize=64)
def _kv_heads(model: ModelSpec) -> int:
    return max(layer.num_kv_heads for layer in model.layers)


@lru_cache(maxsize=64)
def _is_chunked(model: ModelSpec) -> bool:
    return any(layer.attention is AttentionKind.CHUNKED_LOCAL for layer in model.layers)


def _wrong_answers(state: SglangState) -> list[str]:
    config = state.config
    rules, resolved, found = config.rules, config.resolved, []
    if config.model.ropes != state.request.model.ropes:
        found.append(
            f"sglang {rules.version} rotates full-attention layers without the RoPE scaling of the config, so that "
            "answers differ from the model's, those of long prompts most. vLLM scales them, and sglang before 0.5.10."
        )
    if (
        rules.hybrid_flag
        and _is_chunked(config.model)
        and resolved.page_size > 1
        and resolved.attention_backend == "fa3"
    ):
        found.append(
            f"Page size {resolved.page_size} with Llama 4 on fa3 gives wrong answers in {rules.version} (a "
            "token table is passed as a page table). Use --page-size 1."
        )
    return found


def _costs(state: SglangState, completed: Callable[[Mapping[str, str | None]], str]) -> list[str]:
    """What makes it slower than need be."""
    config, prompt, found = state.config, state.prompt, []
    rules, given, resolved = config.rules, config.given, config.resolved
    if given.kv_dtype is KvDtype.FP8_E5M2 and resolved.attention_backend == "triton":
        found.append(
            "FA3 reads FP8 as E4M3 only: with fp8_e5m2 SGLang falls back to triton, which is slower."
        )
    copies = radix_copy_bytes(prompt, resolved.chunked_prefill_size)
    if rules.radix_copies_indices and given.radix_cache and copies > _WORTH_SAYING:
        found.append(
            f"The prefix tree of {rules.version} copies {format_bytes(copies)} of indices on the GPU during "
            f"a prompt of {prompt:,} tokens, and takes CPU time that grows with its cube"
            + (f": add {' or '.join(ways)}." if (ways := _without_copies(state, completed)) else ".")
        )
    return found


def _without_copies(state: SglangState, completed: Callable[[Mapping[str, str | None]], str]) -> list[str]:
    """Flags that spare the prefix tree's copies, of those with which the request is still served."""
    ways: tuple[Mapping[str, str | None], ...] = (
        {"--chunked-prefill-size": "131072"},
        {"--disable-radix-cache": None},
    )
    if state.config.given.chunked_prefill_size is not None:
        ways = ways[1:]
    return [words for way in ways if (words := completed(way))]
