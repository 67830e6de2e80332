"""How many tokens a step and how many requests at once, when the flags do not say."""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.vllm.flags import VllmFlags
from farspan.engines.vllm.versions import Runner, VllmRules
from farspan.hardware.gpu import Gpu
from farspan.models.spec import ModelSpec
from farspan.sizes import GIB


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
    tokens, requests = _defaults(gpu, rules)
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
    synchronous = given.async_scheduling is False or given.speculative not in (
        "",
        "eagle",
        "eagle3",
        "mtp",
        "dflash",
        "dspark",
    )
    return BatchLimits(tokens, requests, 1 if synchronous else 2)


def _defaults(gpu: Gpu, rules: VllmRules) -> tuple[int, int]:
    if rules.large_card_bytes and gpu.memory_bytes >= rules.large_card_bytes:
        return 16384, 1024
    if gpu.memory_bytes >= 70 * GIB and "a100" not in gpu.name.lower():
        return 8192, 1024
    return 2048, 256


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
