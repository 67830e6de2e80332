"""Which SGLang versions are mirrored, and where their memory arithmetic differs."""

from __future__ import annotations

from dataclasses import dataclass, field

from farspan.errors import InputError
from farspan.value_hash import ValueHash

_SWA_ALWAYS = frozenset(
    {
        "Llama4ForConditionalGeneration",
        "GptOssForCausalLM",
        "MiMoV2FlashForCausalLM",
        "Step3p7ForConditionalGeneration",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
    }
)
# Names in published configs that no SGLang release implements; its own classes are called otherwise.
_NOWHERE = frozenset({"MiniMaxM3ForCausalLM", "Step3p7FlashForCausalLM"})
_NEVER_HYBRID = frozenset(
    {"Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Olmo2ForCausalLM"}
)


@dataclass(frozen=True, slots=True)
class SglangRules(ValueHash):
    """What one version does that another does not. Compared by value and hashed once: it is part of cache keys.

    Args:
        version: The version mirrored.
        pool_source: The file its pool arithmetic lives in.
        hybrid_flag: Whether `--hybrid-kvcache-ratio` exists (Llama 4 has split pools only when it is given).
        hybrid_architectures: Architectures whose window layers get a pool of their own by default; None for
            every model with a sliding window except Llama 4.
        never_hybrid: Architectures for which split pools are switched off.
        sizing_needs_chunks: Whether sizing the window pool by --max-running-requests needs chunked prefill.
        padding_row: Whether the request-to-token table has one more row than requests.
        rows_capped_by_pool: Whether rows are also capped at half the pool's tokens.
        encoder_page_table: Whether FA3's graph state holds an encoder page table for every model.
        swa_page_table: Whether FA3's and TRT-LLM's graph state holds a second page table for split pools.
        triton_mask: Whether triton's graph state holds a byte a token and batch row.
        graph_bs_follows_requests: Whether the largest graph batch defaults to --max-running-requests.
        prefill_graphs: Whether prefill is captured too, by default.
        admits_by_smaller_pool: Whether admission needs room for the whole prompt in the smaller pool.
        radix_copies_indices: Whether each node of the prefix tree keeps a copy of all indices before it.
        mamba_padding_slot: Whether the recurrent-state pool has a padding slot.
        counts_sparse_mla_scales: Whether the pool's size counts the scales of sparse MLA in FP8.
        multimodal_reserve_bytes: Set aside for multimodal models before the pool is sized.
        hicache_must_exceed_device: Whether a host pool no larger than the GPU's is refused.
        hicache_auto_sizes: Whether the default host ratio shrinks to the memory of the machine.
        missing: Architectures of the catalog this version cannot serve.
    """

    version: str
    pool_source: str
    hybrid_flag: bool
    hybrid_architectures: frozenset[str] | None
    never_hybrid: frozenset[str]
    sizing_needs_chunks: bool
    padding_row: bool
    rows_capped_by_pool: bool
    encoder_page_table: bool
    swa_page_table: bool
    triton_mask: bool
    graph_bs_follows_requests: bool
    prefill_graphs: bool
    admits_by_smaller_pool: bool
    radix_copies_indices: bool
    mamba_padding_slot: bool
    counts_sparse_mla_scales: bool
    multimodal_reserve_bytes: int
    hicache_must_exceed_device: bool
    hicache_auto_sizes: bool
    missing: frozenset[str] = field(default_factory=frozenset)

    __hash__ = ValueHash.__hash__

    @property
    def newest_api(self) -> bool:
        """Whether flags are named as 0.5.16 and later name them (`--cuda-graph-max-bs-decode`)."""
        return not self.hybrid_flag


_RULES = (
    SglangRules(
        version="0.5.6.post2",
        pool_source="srt/model_executor/model_runner.py",
        hybrid_flag=True,
        hybrid_architectures=None,
        never_hybrid=_NEVER_HYBRID | {"GptOssForCausalLM"},
        sizing_needs_chunks=False,
        padding_row=False,
        rows_capped_by_pool=False,
        encoder_page_table=True,
        swa_page_table=False,
        triton_mask=True,
        graph_bs_follows_requests=False,
        prefill_graphs=False,
        admits_by_smaller_pool=True,
        radix_copies_indices=True,
        mamba_padding_slot=False,
        counts_sparse_mla_scales=False,
        multimodal_reserve_bytes=0,
        hicache_must_exceed_device=True,
        hicache_auto_sizes=False,
        missing=frozenset(
            {
                "DeepseekV4ForCausalLM",
                "Gemma4ForCausalLM",
                "Gemma4ForConditionalGeneration",
                "GlmMoeDsaForCausalLM",
                "KimiK25ForConditionalGeneration",
                "KimiK3ForConditionalGeneration",
                "MiMoV2FlashForCausalLM",
                "Qwen3_5ForConditionalGeneration",
                "Qwen3_5MoeForConditionalGeneration",
                "Step3p7ForConditionalGeneration",
            }
        )
        | _NOWHERE,
    ),
    SglangRules(
        version="0.5.16",
        pool_source="srt/model_executor/pool_configurator.py",
        hybrid_flag=False,
        hybrid_architectures=_SWA_ALWAYS,
        never_hybrid=_NEVER_HYBRID,
        sizing_needs_chunks=False,
        padding_row=True,
        rows_capped_by_pool=True,
        encoder_page_table=False,
        swa_page_table=True,
        triton_mask=True,
        graph_bs_follows_requests=False,
        prefill_graphs=True,
        admits_by_smaller_pool=False,
        radix_copies_indices=False,
        mamba_padding_slot=False,
        counts_sparse_mla_scales=False,
        multimodal_reserve_bytes=0,
        hicache_must_exceed_device=False,
        hicache_auto_sizes=False,
        missing=frozenset({"KimiK3ForConditionalGeneration"}) | _NOWHERE,
    ),
    SglangRules(
        version="0.5.23",
        pool_source="srt/model_executor/pool_configurator.py",
        hybrid_flag=False,
        hybrid_architectures=_SWA_ALWAYS,
        never_hybrid=_NEVER_HYBRID,
        sizing_needs_chunks=True,
        padding_row=True,
        rows_capped_by_pool=True,
        encoder_page_table=False,
        swa_page_table=True,
        triton_mask=False,
        graph_bs_follows_requests=True,
        prefill_graphs=True,
        admits_by_smaller_pool=False,
        radix_copies_indices=False,
        mamba_padding_slot=True,
        counts_sparse_mla_scales=True,
        multimodal_reserve_bytes=100 * 2**20,
        hicache_must_exceed_device=False,
        hicache_auto_sizes=True,
        missing=_NOWHERE,
    ),
)

KNOWN_VERSIONS = tuple(rules.version for rules in _RULES)


def rules_of(version: str) -> SglangRules:
    """The rules of one known version.

    Raises:
        InputError: The version is not one of `KNOWN_VERSIONS`.
    """
    for rules in _RULES:
        if rules.version == version:
            return rules
    raise InputError(
        f"sglang {version} is not a version farspan knows (it knows {', '.join(KNOWN_VERSIONS)})",
        "choose one of them",
    )
