"""What can be changed when a request does not fit vLLM, in order of what it costs the user."""

from __future__ import annotations

from collections.abc import Callable

from farspan.engines.vllm.flags import CHUNKED_HYBRID_ENV, DISABLE_HYBRID, MAX_MODEL_LEN
from farspan.engines.vllm.versions import rules_for
from farspan.models.spec import AttentionKind
from farspan.planner.lever_candidate import LeverCandidate
from farspan.planner.levers import (
    FP8_KV,
    FP8_WEIGHTS,
    MORE_GPUS,
    MORE_RANKS,
    NEWEST_VERSION,
    drop_shorter_context,
    lower_flag,
    offload_weights,
    raise_fraction,
    set_flag,
    with_flags,
)
from farspan.planner.request import EnginePlan, PlanRequest


def _hybrid_groups(request: PlanRequest) -> PlanRequest | None:
    """Hybrid KV groups on: without the flag that turns them off, with the variable some versions need."""
    rules, _ = rules_for(request.engine_version)
    add: dict[str, str | None] = {}
    chunked = any(True for _ in request.model.layers_of(AttentionKind.CHUNKED_LOCAL))
    value = request.engine_flags.get(CHUNKED_HYBRID_ENV, "1" if rules.chunked_hybrid_default else "0")
    if chunked and value != "1":
        add = {CHUNKED_HYBRID_ENV: "1"}
    if not add and not request.has_flag(DISABLE_HYBRID):
        return None
    return with_flags(request, add, (DISABLE_HYBRID,))


def _describe_hybrid(changed: PlanRequest) -> str:
    variable = CHUNKED_HYBRID_ENV in changed.engine_flags
    return f"hybrid KV groups on ({f'{CHUNKED_HYBRID_ENV}=1' if variable else f'no {DISABLE_HYBRID}'})"


def _without_images(request: PlanRequest) -> PlanRequest | None:
    if not request.model.has_vision or request.has_flag("--limit-mm-per-prompt", "--language-model-only"):
        return None
    return with_flags(request, {"--limit-mm-per-prompt": '{"image": 0}'})


def vllm_levers(outline: Callable[[PlanRequest], EnginePlan]) -> tuple[LeverCandidate, ...]:
    """vLLM's levers: those that cost nothing first, then speed, then exactness, then money.

    Args:
        outline: Plans vLLM without ledger and remarks.
    """
    return (
        drop_shorter_context(MAX_MODEL_LEN),
        LeverCandidate("hybrid KV groups on", "nothing", _hybrid_groups, _describe_hybrid),
        NEWEST_VERSION,
        LeverCandidate(
            "--max-num-batched-tokens 2048",
            "slower prefill",
            lower_flag("--max-num-batched-tokens", 2048, 8192),
        ),
        LeverCandidate("--max-num-seqs 8", "fewer requests at once", lower_flag("--max-num-seqs", 8, 256)),
        LeverCandidate(
            "--gpu-memory-utilization 0.94",
            "less room for spikes: 0.95 was seen to run out while warming up",
            raise_fraction("--gpu-memory-utilization", 0.94),
        ),
        LeverCandidate("no images: --limit-mm-per-prompt '{\"image\": 0}'", "images", _without_images),
        LeverCandidate("--enforce-eager", "slower decode", set_flag("--enforce-eager", None)),
        FP8_KV,
        offload_weights("every step reads that much over PCIe", outline),
        FP8_WEIGHTS,
        MORE_RANKS,
        MORE_GPUS,
    )
