"""What vLLM chooses when the flags do not say: the largest step, the block size, the KV type, prefix caching."""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.vllm.flags import VllmFlags
from farspan.engines.vllm.speculative import DRAFT_MODEL, uses_eagle
from farspan.engines.vllm.versions import Runner, VllmRules
from farspan.errors import InputError
from farspan.hardware.gpu import Gpu
from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.sizes import GIB

DEFAULT_BLOCK = 16


class BatchLimits(NamedTuple):
    """Limits of one step.

    Args:
        tokens: max_num_batched_tokens.
        requests: max_num_seqs.
        batches: Steps scheduled at once: 2 with asynchronous scheduling.
    """

    tokens: int
    requests: int
    batches: int

    def in_flight(self, rules: VllmRules) -> int:
        """Tokens a windowed layer must reserve beside its window (vllm: max_in_flight_tokens)."""
        return self.tokens * (self.batches if rules.counts_batches_in_flight else 1)


def batch_limits(given: VllmFlags, gpu: Gpu, max_model_len: int, rules: VllmRules) -> BatchLimits:
    """Mirrors vllm engine/arg_utils.py: get_batch_defaults (API server) and what follows it."""
    tokens, requests = _default_batch(gpu, rules)
    if rules.whole_prompts:
        requests = 256
        tokens = max(2048, max_model_len) if max_model_len <= 32768 else 2048
    if given.throughput_mode:
        tokens, requests = tokens * 2, requests * 2
    requests = given.max_num_seqs or requests
    if given.max_num_batched_tokens is not None:
        tokens = given.max_num_batched_tokens
    else:
        if not given.chunked_prefill:
            tokens = max(tokens, max_model_len)
        tokens = min(tokens, requests * max_model_len)
    if given.max_num_seqs is None:
        requests = min(requests, tokens)
    drafts_ahead = given.speculative in ("", DRAFT_MODEL) or uses_eagle(given.speculative)
    synchronous = given.async_scheduling is False or not drafts_ahead
    return BatchLimits(tokens, requests, 1 if synchronous else 2)


def _default_batch(gpu: Gpu, rules: VllmRules) -> tuple[int, int]:
    if rules.large_card_bytes and gpu.memory_bytes >= rules.large_card_bytes:
        return 16384, 1024
    if gpu.memory_bytes >= 70 * GIB and "a100" not in gpu.name.lower():
        return 8192, 1024
    return 2048, 256


def default_block_size(model: ModelSpec, gpu: Gpu, kv_dtype: KvDtype, rules: VllmRules) -> int:
    """Tokens of a block when `--block-size` is not given: the attention backend's choice.

    vllm 0.12.0 platforms/cuda.py: check_and_update_config; from 0.20.0 platforms/interface.py:
    update_block_size_for_backend.
    """
    if model.is_compressed:
        from farspan.engines.vllm.compressed import BLOCK  # for DeepSeek V4 alone

        return BLOCK
    latent = [layer for layer in model.layers if layer.attention is AttentionKind.MLA]
    if not latent:
        sparse = any(layer.indexer is not None for layer in model.layers)
        return 128 if sparse else DEFAULT_BLOCK  # MiniMax M3: one sparse block a page
    if any(layer.indexer is not None for layer in latent):
        return 64
    if not rules.subtracts_graphs:
        return 128 if gpu.capability[0] == 10 else 64
    if gpu.capability[0] == 10:
        return 32  # FlashInfer MLA
    if gpu.capability[0] == 9 and kv_dtype.is_fp8:
        return 64  # FlashMLA
    return DEFAULT_BLOCK


def resolve_kv_dtype(model: ModelSpec, wanted: KvDtype) -> KvDtype:
    """The KV type as vLLM stores it: sparse MLA keeps FP8 in its own layout (config.py: DeepseekV32)."""
    if wanted is KvDtype.AUTO and model.kv_fp8:
        wanted = KvDtype.FP8  # layers/attention/attention.py: a checkpoint's kv_cache_scheme decides
    sparse_latent = any(
        layer.indexer is not None and layer.attention is AttentionKind.MLA for layer in model.layers
    )
    if model.is_compressed:
        return KvDtype.FP8_DS_MLA
    if wanted is KvDtype.FP8_DS_MLA and not sparse_latent:
        raise InputError(f"fp8_ds_mla is for sparse MLA models, not {model.name}", "use fp8_e4m3")
    return KvDtype.FP8_DS_MLA if sparse_latent and wanted.is_fp8 else wanted


# Classes that keep a state for every block of a cached prefix (SupportsMambaPrefixCaching).
_EVERY_STATE = frozenset(
    {
        "BambaForCausalLM",
        "FalconH1ForCausalLM",
        "FalconMambaForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "JambaForCausalLM",
        "Mamba2ForCausalLM",
        "MambaForCausalLM",
        "NemotronHForCausalLM",
        "Zamba2ForCausalLM",
    }
)


def every_state(model: ModelSpec, given: VllmFlags, rules: VllmRules) -> bool:
    """Whether a request keeps a recurrent state for every block, not the last alone (vllm 0.20.0 to 0.27.1
    models/config.py: MambaModelConfig, mode "all"; from 0.28.0 on "align").
    """
    return (
        rules.keeps_every_state
        and model.architecture in _EVERY_STATE
        and not given.aligned_states
        and prefix_caching(model, given, rules)
    )


def prefix_caching(model: ModelSpec, given: VllmFlags, rules: VllmRules) -> bool:
    """Whether prefix caching is on (vllm config/model.py: is_prefix_caching_supported)."""
    if given.prefix_caching is not None:
        return given.prefix_caching
    return rules.prefix_caches_states or not any(True for _ in model.layers_of(AttentionKind.LINEAR))


def on_second_runner(model: ModelSpec, rules: VllmRules) -> bool:
    """Whether vLLM serves the model on its second model runner (vllm config/vllm.py: use_v2_model_runner)."""
    if rules.second_runner is Runner.ALL:
        return True
    if model.architecture in rules.second_runner_models:
        return True
    if rules.second_runner is not Runner.DENSE:
        return False
    recurrent = any(layer.states for layer in model.layers)
    return not recurrent and all(layer.moe is None for layer in model.layers)
