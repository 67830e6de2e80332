"""What changed when in vLLM's memory arithmetic: a record of rules for each version that was read and run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from farspan.planner.versions import ResolvedVersion, released_version, resolve_release, version_key
from farspan.sizes import GIB
from farspan.value_hash import ValueHash

ENGINE = "vllm"


class CapacityCheck(StrEnum):
    """What the engine adds up at start to see whether one request of max_model_len fits."""

    LAYERS = "layers"  # every layer by its own kind, before layers are merged when hybrid groups are off
    FIRST_GROUP = "first group"  # the first KV group only
    GROUPS = "groups"  # all KV groups
    GROUPS_LESS_NULL = "groups less the null block"  # all KV groups, in the pool without its reserved block


class SizeLine(StrEnum):
    """How "KV cache size" is worked out and printed."""

    DIVIDED = "divided"  # (num_blocks // groups) x block: the same with hybrid groups on and off
    CAPACITY = "capacity"  # int(concurrency x max_model_len)
    ONE_LINE = "one line"  # the same, with the concurrency on the same line


class Runner(StrEnum):
    """Which models run on the second model runner, which keeps its block tables twice."""

    NONE = "none"
    LISTED = "listed"  # some architectures
    DENSE = "dense"  # these and every dense model without recurrent layers
    ALL = "all"


class PageUnify(StrEnum):
    """What happens when layers of different kinds have pages of different sizes."""

    STRICT = "strict"  # larger blocks for the smaller page, or the engine refuses to start
    PAD = "pad"  # pages that do not divide are padded to the largest


class CompressedPool(StrEnum):
    """How the pool of a model with latents of folded tokens (DeepSeek V4) is counted."""

    SLOTS = "slots"  # pages padded to the latents' sizes; a block has a slot for each page of each size
    OVERLAID = "overlaid"  # groups overlie each other in a block; the check still counts slots
    BLOCKS = "blocks"  # groups overlie each other, and the check counts blocks


@dataclass(frozen=True, slots=True)
class VllmRules(ValueHash):
    """The memory arithmetic of one vLLM version. Compared by value and hashed once: it is part of cache keys.

    Args:
        version: The version.
        default_utilization: `--gpu-memory-utilization` when it is not given.
        subtracts_graphs: Whether the estimate of CUDA graph memory is taken from the KV budget.
        chunked_hybrid_default: Default of VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE.
        hybrid_preference: Whether `--no-disable-hybrid-kv-cache-manager` is a wish of its own, kept against a
            KV connector and an error against anything else that turns hybrid groups off.
        events_disable_hybrid: Whether `--kv-events-config` turns hybrid groups off.
        connector_support_checked: Whether a KV connector that supports hybrid groups leaves them on.
        counts_batches_in_flight: Whether windowed layers reserve for every batch in flight, not for one.
        check: What is added up to see whether max_model_len fits.
        size_line: How the KV cache size is printed.
        page_unify: What happens to pages of different sizes.
        pads_state_pages: Whether a smaller recurrent-state page is padded to the largest page.
        latent_falls_back: Whether windowed layers beside MLA become full when pages cannot be made alike.
        near_ratio: Kinds closer than this in number of layers take the larger number as group size.
        separates_value_size: Whether full layers with unequal value head sizes are kept apart.
        separates_latent_size: Whether MLA layers with unequal sizes are kept apart.
        promotes: Whether windowed layers take the full layers' block size when hybrid groups are off.
        window_value_size: Whether a sliding-window layer may have a value head size of its own.
        aligns_latent_blocks: Whether MLA beside recurrent layers has blocks of a multiple of 128 tokens.
        state_page_uniform: Whether recurrent layers with unequal pages are kept apart.
        calculates_kv_scales: Whether `--calculate-kv-scales` exists.
        auto_max_model_len: Whether `--max-model-len auto` (or -1) exists.
        large_card_bytes: Cards at least this large get the largest default batch; 0 for no such tier.
        second_runner: Which models run on the second model runner by default.
        second_runner_models: Architectures that do, for Runner.LISTED and Runner.DENSE.
        aligns_tables: Whether rows of the block table are a multiple of 128 tokens long.
        sampler_bytes: Bytes the sampler takes for each logit while it warms up, beside the logit itself (fitted).
        second_sampler_bytes: The same on the second model runner (read: it copies logits when it must change them).
        new_kernels: Whether kernels and collectives outside torch take what they take from 0.18.0 on (fitted).
        norms_in_float32: Whether norms that scale by 1 + weight run operation by operation where nothing is compiled.
        flashinfer_sampler: Whether FlashInfer samples by default.
        max_split_bytes: Size from which torch splits no block while weights are loaded on NVIDIA GPUs; 0 for none.
        keeps_workspace: Whether buffers of the experts are kept between steps.
        whole_prompts: Whether a step holds a whole prompt, as the engine before V1 made it up to 32,768 tokens.
        estimates_graphs: Whether the memory of CUDA graphs can be estimated and subtracted.
        estimates_graphs_on_amd: Whether it is on AMD cards, too.
        prefix_caches_states: Whether prefix caching is on by default for models with recurrent layers.
        keeps_every_state: Whether Mamba's layers keep a state for every block where prefixes are cached.
        checks_state_blocks: Whether a pool with fewer blocks than requests stops a server with recurrent layers.
        counts_draft_states: Whether a request's need counts a recurrent state for each drafted token.
        e5m2_meets_quantized_query: Whether FlashAttention on Hopper accepts E5M2 and then asserts E4M3.
        offload_needs_one_group: Whether `--cpu-offload-gb` stops a server with several KV groups.
        tower_float32: Whether vision towers rotate queries and keys in float32.
        compressed_pool: How the pool of latents of folded tokens is counted.
        pads_kimi_experts: Whether a rank's share of a Kimi expert is at least 256 wide.
        latent_auto_fp8: Whether such latents are FP8 where no KV type is asked for; else that stops the server.
        smallest_window_block: Whether sliding-window layers start from the smallest block of the kernel.
    """

    version: str
    default_utilization: float
    subtracts_graphs: bool = False
    chunked_hybrid_default: bool = False
    hybrid_preference: bool = False
    events_disable_hybrid: bool = True
    connector_support_checked: bool = False
    counts_batches_in_flight: bool = False
    check: CapacityCheck = CapacityCheck.LAYERS
    size_line: SizeLine = SizeLine.DIVIDED
    page_unify: PageUnify = PageUnify.STRICT
    pads_state_pages: bool = False
    latent_falls_back: bool = False
    near_ratio: float = 1.25
    separates_value_size: bool = False
    separates_latent_size: bool = False
    promotes: bool = False
    window_value_size: bool = False
    aligns_latent_blocks: bool = False
    state_page_uniform: bool = False
    calculates_kv_scales: bool = True
    auto_max_model_len: bool = False
    large_card_bytes: int = 0
    second_runner: Runner = Runner.NONE
    second_runner_models: frozenset[str] = frozenset()
    aligns_tables: bool = False
    sampler_bytes: float = 36.0
    second_sampler_bytes: float = 0.0
    new_kernels: bool = False
    norms_in_float32: bool = False
    flashinfer_sampler: bool = False
    keeps_workspace: bool = False
    max_split_bytes: int = 0
    estimates_graphs: bool = False
    estimates_graphs_on_amd: bool = False
    whole_prompts: bool = False
    prefix_caches_states: bool = False
    counts_draft_states: bool = False
    keeps_every_state: bool = False
    checks_state_blocks: bool = False
    e5m2_meets_quantized_query: bool = True
    compressed_pool: CompressedPool = CompressedPool.SLOTS
    pads_kimi_experts: bool = False
    latent_auto_fp8: bool = False
    smallest_window_block: bool = False
    offload_needs_one_group: bool = True
    tower_float32: bool = False

    __hash__ = ValueHash.__hash__


_V0_12 = VllmRules("0.12.0", default_utilization=0.9)
_V0_13 = replace(_V0_12, version="0.13.0", hybrid_preference=True, keeps_workspace=True)
_V0_14 = replace(
    _V0_13,
    version="0.14.0",
    chunked_hybrid_default=True,
    check=CapacityCheck.FIRST_GROUP,
    auto_max_model_len=True,
)
_V0_15 = replace(_V0_14, counts_draft_states=True)
_V0_20 = replace(
    _V0_15,
    version="0.20.0",
    default_utilization=0.92,
    offload_needs_one_group=False,
    subtracts_graphs=True,
    estimates_graphs=True,
    sampler_bytes=12.5,
    new_kernels=True,
    norms_in_float32=True,
    keeps_workspace=True,
    keeps_every_state=True,
    checks_state_blocks=True,
    events_disable_hybrid=False,
    check=CapacityCheck.GROUPS,
    near_ratio=1.5,
    window_value_size=True,
)
_V0_24 = replace(
    _V0_20,
    version="0.24.0",
    connector_support_checked=True,
    size_line=SizeLine.CAPACITY,
    second_runner=Runner.LISTED,
    second_runner_models=frozenset(
        {
            "Qwen3ForCausalLM",
            "DeepseekV2ForCausalLM",
            "Qwen2MoeForCausalLM",
            "GraniteMoeForCausalLM",
            "LlamaForCausalLM",
            "MistralForCausalLM",
        }
    ),
    flashinfer_sampler=True,
    max_split_bytes=20 * 2**20,
    second_sampler_bytes=4.0,
    e5m2_meets_quantized_query=False,
)
_V0_26 = replace(
    _V0_24, counts_batches_in_flight=True, estimates_graphs_on_amd=True, prefix_caches_states=True
)
_V0_27 = replace(
    _V0_26,
    version="0.27.1",
    pads_state_pages=True,
    latent_falls_back=True,
    aligns_latent_blocks=True,
    separates_latent_size=True,
    promotes=True,
    smallest_window_block=True,
    second_runner=Runner.DENSE,
    second_sampler_bytes=0.0,
    second_runner_models=frozenset({"KimiK3ForConditionalGeneration"}),
)
_V0_29 = replace(
    _V0_27,
    version="0.29.0",
    keeps_every_state=False,
    check=CapacityCheck.GROUPS_LESS_NULL,
    size_line=SizeLine.ONE_LINE,
    page_unify=PageUnify.PAD,
    separates_value_size=True,
    calculates_kv_scales=False,
    large_card_bytes=160 * GIB,
    second_runner=Runner.ALL,
    aligns_tables=True,
    state_page_uniform=True,
    compressed_pool=CompressedPool.BLOCKS,
    pads_kimi_experts=True,
)
_V0_32 = replace(_V0_29, version="0.32.0", smallest_window_block=False, latent_auto_fp8=True)
_V0_33 = replace(_V0_32, version="0.33.0")

RULES = {
    rules.version: rules for rules in (_V0_12, _V0_13, _V0_14, _V0_20, _V0_24, _V0_27, _V0_29, _V0_32, _V0_33)
}
# The versions whose planning code was run beside farspan's; the others' rules were read in their wheels.
KNOWN_VERSIONS = tuple(RULES)

_V0_9 = replace(_V0_12, near_ratio=1.0, tower_float32=True)
_V0_17 = replace(_V0_15, sampler_bytes=12.5)
_V0_18 = replace(_V0_17, near_ratio=1.5, new_kernels=True, estimates_graphs=True)
_V0_22 = replace(
    _V0_20,
    size_line=SizeLine.CAPACITY,
    connector_support_checked=True,
    flashinfer_sampler=True,
    second_runner=Runner.LISTED,
    second_runner_models=frozenset({"Qwen3ForCausalLM"}),
    second_sampler_bytes=4.0,
)
_V0_23 = replace(
    _V0_22,
    second_runner_models=frozenset({"Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"}),
)
_V0_28 = replace(
    _V0_27,
    keeps_every_state=False,
    calculates_kv_scales=False,
    large_card_bytes=160 * GIB,
    compressed_pool=CompressedPool.OVERLAID,
    pads_kimi_experts=True,
    second_runner_models=frozenset({"KimiK3ForConditionalGeneration", "DeepseekV4ForCausalLM"}),
)

# First release of each set of rules, oldest first; a release follows the last line not above it.
_CHANGES: tuple[tuple[str, VllmRules], ...] = (
    ("0.9.0", _V0_9),
    ("0.12.0", _V0_12),
    ("0.13.0", _V0_13),
    ("0.14.0", _V0_14),
    ("0.15.0", _V0_15),
    ("0.17.0", _V0_17),
    ("0.18.0", _V0_18),
    ("0.19.0", replace(_V0_18, check=CapacityCheck.GROUPS)),
    ("0.20.0", _V0_20),
    ("0.20.1", replace(_V0_20, size_line=SizeLine.CAPACITY)),
    ("0.22.0", _V0_22),
    ("0.23.0", _V0_23),
    ("0.24.0", _V0_24),
    ("0.26.0", _V0_26),
    ("0.27.0", _V0_27),
    ("0.28.0", _V0_28),
    ("0.29.0", _V0_29),
    ("0.30.0", replace(_V0_29, latent_auto_fp8=True)),
    ("0.32.0", _V0_32),
    ("0.33.0", _V0_33),
)
OLDEST_READ = _CHANGES[0][0]
_FIRST_V1 = version_key("0.8.0")
_CHANGE_KEYS = tuple(version_key(first) for first, _ in _CHANGES)

# First version whose registry lists the architecture. Older ones are not here.
_FIRST_SEEN = {
    "Glm4MoeForCausalLM": "0.10.0",
    "GptOssForCausalLM": "0.10.1",
    "Qwen3NextForCausalLM": "0.10.2",
    "Qwen3VLForConditionalGeneration": "0.11.0",
    "Qwen3VLMoeForConditionalGeneration": "0.11.0",
    "MiniMaxM2ForCausalLM": "0.11.1",
    "MiMoV2FlashForCausalLM": "0.14.0",
    "KimiK25ForConditionalGeneration": "0.15.0",
    "GlmMoeDsaForCausalLM": "0.16.0",
    "Qwen3_5ForConditionalGeneration": "0.17.0",
    "Qwen3_5MoeForConditionalGeneration": "0.17.0",
    "Gemma4ForConditionalGeneration": "0.19.0",
    "DeepseekV4ForCausalLM": "0.20.0",
    "KimiK3ForConditionalGeneration": "0.27.0",
    "KimiK3LinearForCausalLM": "0.27.0",
}


@lru_cache(maxsize=256)
def rules_for(wanted: str) -> tuple[VllmRules, ResolvedVersion]:
    """The rules of a version (empty: the newest known), and what was resolved.

    A pre-release or a nightly is planned as the release it precedes, a release newer than all that were read by
    the newest rules, one older by the oldest; the warning says so.

    Raises:
        InputError: The text is not a version.
    """
    resolved = resolve_release(ENGINE, wanted, OLDEST_READ, KNOWN_VERSIONS[-1])
    before_v1 = resolved.version == OLDEST_READ and version_key(released_version(wanted)[0]) < _FIRST_V1
    rules = (
        replace(_rules_of(resolved.version), whole_prompts=True) if before_v1 else _rules_of(resolved.version)
    )
    return rules, resolved


@lru_cache(maxsize=256)
def _rules_of(version: str) -> VllmRules:
    """The rules that a release follows; the very record of a known version."""
    if version in RULES:
        return RULES[version]
    key = version_key(version)
    at = max(index for index, first in enumerate(_CHANGE_KEYS) if first <= key)
    return replace(_CHANGES[at][1], version=version)


# Architectures no known version lists, though their configs name them.
_NEVER_SEEN = frozenset({"MiniMaxM3ForCausalLM", "Step3p7FlashForCausalLM"})


def is_listed(architecture: str) -> bool:
    """Whether some known version lists the architecture, as far as farspan looked."""
    return architecture not in _NEVER_SEEN


def first_version_with(architecture: str, rules: VllmRules) -> str:
    """The first version that lists `architecture`, if `rules` is older than it; else empty."""
    first = _FIRST_SEEN.get(architecture, "")
    return first if first and version_key(first) > version_key(rules.version) else ""
