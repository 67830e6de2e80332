"""How each SGLang release since 0.5.1 does its memory arithmetic, and which rules a version string means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from farspan.engines.sglang.known_names import architectures_of
from farspan.planner.versions import resolve_release, version_key
from farspan.value_hash import ValueHash

_SWA = frozenset({"Llama4ForConditionalGeneration", "GptOssForCausalLM", "MiMoV2FlashForCausalLM"})
# Architectures whose window layers get a pool of their own, and since when (configs/model_config.py:
# is_hybrid_swa_model). Before 0.5.8 every model with a sliding window had one.
_SWA_SINCE = (
    ("0.5.8", _SWA),
    ("0.5.9", frozenset({"Step3p5ForCausalLM"})),
    ("0.5.11", frozenset({"Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"})),
    (
        "0.5.13",
        frozenset(
            {"Step3p7ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration", "LagunaForCausalLM"}
        ),
    ),
    ("0.5.16", frozenset({"MellumForCausalLM"})),
)
_GEMMA3 = frozenset({"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"})
_NEVER_HYBRID = frozenset(
    {"Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Olmo2ForCausalLM"}
)

# Releases whose own code was read; a post release has the rules of the release it follows.
KNOWN_VERSIONS = (
    *("0.5.1", "0.5.2", "0.5.3", "0.5.4", "0.5.5", "0.5.6.post2", "0.5.7", "0.5.8", "0.5.9", "0.5.10"),
    *("0.5.11", "0.5.12", "0.5.13", "0.5.14", "0.5.15", "0.5.16", "0.5.17", "0.5.18", "0.5.19"),
    *("0.5.20", "0.5.21", "0.5.22", "0.5.23"),
)


@dataclass(frozen=True, slots=True)
class SglangRules(ValueHash):
    """What one version does that another does not. Compared by value and hashed once: it is part of cache keys.

    Args:
        version: The version mirrored.
        pool_source: The file its pool arithmetic lives in.
        hybrid_flag: Whether `--hybrid-kvcache-ratio` does anything (Llama 4 has split pools only when it is given).
        hybrid_architectures: Architectures whose window layers get a pool of their own by default; None for
            every model with a sliding window except Llama 4.
        never_hybrid: Architectures for which split pools are switched off.
        splits_layers_alike: Whether the split counts every layer's tokens as equally large.
        splits_profiled_tokens: Whether the split starts from the whole tokens of all layers, rounded down once.
        sizes_window_by_requests: Whether the window pool may be sized by --max-running-requests.
        sizing_needs_chunks: Whether sizing the window pool by --max-running-requests needs chunked prefill.
        padding_row: Whether the request-to-token table has one more row than requests.
        rows_capped_by_pool: Whether rows are also capped at half the pool's tokens.
        ropes_unscaled: Architectures whose RoPE tables leave out the scaling that the config asks for.
        given_rows_capped: Whether rows given by --max-running-requests are capped so too.
        encoder_page_table: Whether FA3's graph state holds an encoder page table for every model.
        swa_page_table: Whether FA3's graph state holds a second page table for split pools.
        trtllm_swa_page_table: Whether TRT-LLM's does.
        trtllm_strided_indices: Whether TRT-LLM's graph state holds indices of every page's first token.
        triton_mask: Whether triton's graph state holds a byte a token and batch row.
        triton_uneven_batch: Whether it holds a flag for batches of uneven lengths.
        small_cards_grew: Whether cards of 20 to 35 GiB get larger chunks and batches.
        trtllm_page_128: Whether TRT-LLM takes pages of 128 tokens.
        graph_bs_follows_requests: Whether the largest graph batch defaults to --max-running-requests.
        always_captures_largest: Whether the largest batch is captured though it is no multiple of the steps.
        reserves_for_graphs_off: Whether the default fraction leaves room for decode graphs that are off.
        prefill_graphs: Whether prefill is captured too, by default.
        prefill_graphs_compiled: Whether it is compiled piece by piece, which fewer kinds of server allow.
        prefill_graphs_with_mla: Whether it is captured for MLA too.
        prefill_graphs_with_lora: Whether it is captured beside LoRA adapters too.
        newest_api: Whether flags are named as 0.5.14 and later name them (`--cuda-graph-max-bs-decode`).
        fa3_for_all: Whether FA3 is the default of every model on Hopper.
        trtllm_on_sm120: Whether TRT-LLM's kernels are the default on consumer Blackwell too.
        sparse_backend: What the backend of sparse MLA is called.
        admits_by_smaller_pool: Whether admission needs room for the whole prompt in the smaller pool.
        radix_copies_indices: Whether each node of the prefix tree keeps a copy of all indices before it.
        state_slots_rule: 0: with a prefix tree slots fill their share, whatever was given; 1: slots given by flag
            count; 2: without a prefix tree and a request count they fill their share too.
        tracks_states: Whether requests take slots for the states being written beside the tree's copies.
        mamba_padding_slot: Whether the recurrent-state pool has a padding slot.
        counts_sparse_mla_scales: Whether the pool's size counts the scales of sparse MLA in FP8.
        multimodal_reserve_bytes: Set aside for multimodal models before the pool is sized.
        hicache_must_exceed_device: Whether a host pool no larger than the GPU's is refused.
        hicache_auto_sizes: Whether the default host ratio shrinks to the memory of the machine.
        hicache_moves_decode: Whether HiCache's default I/O backend switches the decode backend.
        counts_drafts: Whether a draft's weights and KV are counted before the pool is sized.
        counts_drafts_beside_windows: Whether they are where window layers have a pool of their own, too.
        counts_draft_apart: Whether a draft's bytes a token are rounded apart from the model's.
        drafts_widen_pool: Whether the pool gets tokens for drafts beyond its budget.
        draft_reserve_mib: What the default fraction leaves for an EAGLE draft, which is not counted.
        standalone_reserve_mib: The same for a draft model of its own.
        ngram_reserve_mib: The same where n-grams draft.
        prefill_graphs_with_drafts: Whether prefill is captured beside speculative decoding too.
        eager_buffers: Whether steps outside graphs have input buffers of a fixed size, and kernels are warmed up.
        eager_buffers_by_pool: Whether these hold as many tokens as the pool, not only as many as a step.
    """

    version: str
    pool_source: str
    hybrid_flag: bool
    hybrid_architectures: frozenset[str] | None
    never_hybrid: frozenset[str]
    splits_layers_alike: bool
    splits_profiled_tokens: bool
    sizes_window_by_requests: bool
    sizing_needs_chunks: bool
    padding_row: bool
    rows_capped_by_pool: bool
    ropes_unscaled: frozenset[str]
    given_rows_capped: bool
    encoder_page_table: bool
    swa_page_table: bool
    trtllm_swa_page_table: bool
    trtllm_strided_indices: bool
    triton_mask: bool
    triton_uneven_batch: bool
    small_cards_grew: bool
    trtllm_page_128: bool
    graph_bs_follows_requests: bool
    always_captures_largest: bool
    reserves_for_graphs_off: bool
    prefill_graphs: bool
    prefill_graphs_compiled: bool
    prefill_graphs_with_mla: bool
    prefill_graphs_with_lora: bool
    newest_api: bool
    fa3_for_all: bool
    trtllm_on_sm120: bool
    sparse_backend: str
    admits_by_smaller_pool: bool
    radix_copies_indices: bool
    state_slots_rule: int
    tracks_states: bool
    mamba_padding_slot: bool
    counts_sparse_mla_scales: bool
    multimodal_reserve_bytes: int
    hicache_must_exceed_device: bool
    hicache_auto_sizes: bool
    hicache_moves_decode: bool
    counts_drafts: bool
    counts_drafts_beside_windows: bool
    counts_draft_apart: bool
    drafts_widen_pool: bool
    draft_reserve_mib: int
    standalone_reserve_mib: int
    ngram_reserve_mib: int
    prefill_graphs_with_drafts: bool
    eager_buffers: bool
    eager_buffers_by_pool: bool

    __hash__ = ValueHash.__hash__

    def implements(self, architecture: str) -> bool:
        """Whether the version has a model class of that name."""
        return architecture in architectures_of(self.version)


@lru_cache(maxsize=64)
def rules_of(version: str) -> SglangRules:
    """The rules of one release, post releases included: those of the last change at or before it."""
    key = version_key(version)

    def since(release: str) -> bool:
        return key >= version_key(release)

    split: set[str] = set()
    for release, architectures in _SWA_SINCE:
        split |= architectures if since(release) else set()
    source = "srt/model_executor/model_runner.py"
    if since("0.5.8"):
        source = "srt/model_executor/model_runner_kv_cache_mixin.py"
    if since("0.5.11"):
        source = "srt/model_executor/pool_configurator.py"
    return SglangRules(
        version=version,
        pool_source=source,
        hybrid_flag=not since("0.5.8"),
        hybrid_architectures=frozenset(split) if since("0.5.8") else None,
        never_hybrid=_NEVER_HYBRID | (frozenset() if since("0.5.8") else {"GptOssForCausalLM"}),
        splits_layers_alike=not since("0.5.9"),
        splits_profiled_tokens=not since("0.5.11"),
        sizes_window_by_requests=since("0.5.14"),
        sizing_needs_chunks=since("0.5.22"),
        padding_row=since("0.5.12"),
        rows_capped_by_pool=since("0.5.10"),
        ropes_unscaled=_GEMMA3 if since("0.5.10") else frozenset(),
        given_rows_capped=since("0.5.14"),
        encoder_page_table=not since("0.5.8"),
        swa_page_table=since("0.5.8"),
        trtllm_swa_page_table=since("0.5.9"),
        trtllm_strided_indices=not since("0.5.14"),
        triton_mask=not since("0.5.17"),
        triton_uneven_batch=since("0.5.19"),
        small_cards_grew=since("0.5.20"),
        trtllm_page_128=since("0.5.17"),
        graph_bs_follows_requests=since("0.5.22"),
        always_captures_largest=since("0.5.14"),
        reserves_for_graphs_off=not since("0.5.14"),
        prefill_graphs=since("0.5.10"),
        prefill_graphs_compiled=not since("0.5.14"),
        prefill_graphs_with_mla=since("0.5.17") or not since("0.5.14"),
        prefill_graphs_with_lora=since("0.5.17"),
        newest_api=since("0.5.14"),
        fa3_for_all=since("0.5.8"),
        trtllm_on_sm120=not since("0.5.7"),
        sparse_backend="dsa" if since("0.5.13") else "nsa",
        admits_by_smaller_pool=not since("0.5.11"),
        radix_copies_indices=not since("0.5.8"),
        state_slots_rule=2 if since("0.5.9") else 1 if since("0.5.7") else 0,
        tracks_states=since("0.5.14"),
        mamba_padding_slot=since("0.5.17"),
        counts_sparse_mla_scales=since("0.5.17"),
        multimodal_reserve_bytes=100 * 2**20 if since("0.5.18") else 0,
        hicache_must_exceed_device=not since("0.5.15"),
        hicache_auto_sizes=since("0.5.21"),
        hicache_moves_decode=not since("0.5.10"),
        counts_drafts=since("0.5.14"),
        counts_drafts_beside_windows=since("0.5.15"),
        counts_draft_apart=since("0.5.18"),
        drafts_widen_pool=not since("0.5.7"),
        draft_reserve_mib=4096 if since("0.5.10") else 2048,
        standalone_reserve_mib=6144 if since("0.5.2") else 2048,
        ngram_reserve_mib=0 if since("0.5.4") else 2048,
        prefill_graphs_with_drafts=since("0.5.11"),
        eager_buffers=since("0.5.14"),
        eager_buffers_by_pool=since("0.5.15"),
    )


def rules_for(wanted: str) -> tuple[SglangRules, str]:
    """The rules to plan a version with (empty: the newest), and what to say when they are not its own.

    Raises:
        InputError: The text is not a version.
    """
    chosen = resolve_release("sglang", wanted, KNOWN_VERSIONS[0], KNOWN_VERSIONS[-1])
    return rules_of(chosen.version), chosen.warning
