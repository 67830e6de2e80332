"""The built-in engine's plan is its own KV cache's arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.kv.growing import GrowingKVCache
from farspan.kv.interface import retentions
from farspan.models.config import load_model
from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.planner.builtin import longest_sequence, needed_bytes, plan_builtin
from farspan.planner.ledger import Phase
from farspan.planner.request import PlanRequest

GIB = 2**30
LLAMA = load_model("llama-3.1-8b", allow_network=False)
SCOUT = load_model("llama-4-scout", allow_network=False)


class Bfloat16:
    """All the cache asks of a dtype while it counts."""

    itemsize = 2


def real_cache(model: ModelSpec, step: int, capacity: int) -> GrowingKVCache:
    chunks = [
        layer.window if layer.attention is AttentionKind.CHUNKED_LOCAL else None for layer in model.layers
    ]
    return GrowingKVCache(
        layers=retentions(chunks),
        num_kv_heads=model.num_kv_heads,
        head_dim=model.layers[0].head_dim,
        dtype=Bfloat16(),  # type: ignore[arg-type]
        device="cpu",  # type: ignore[arg-type]
        max_step_tokens=step,
        capacity_bytes=capacity,
    )


def request(
    model: ModelSpec = LLAMA, gpu: str = "H100", context: int = 100_000, **changes: object
) -> PlanRequest:
    return replace(PlanRequest(model, find_gpu(gpu), 1, 1, context), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [LLAMA, SCOUT], ids=["llama", "scout"])
@pytest.mark.parametrize("step", [512, 2048, 8192, 20000])
def test_bytes_a_sequence_needs_are_the_caches_own(model: ModelSpec, step: int) -> None:
    cache = real_cache(model, step, 2**60)
    for tokens in (1, 1023, 1024, 8191, 8192, 65537, 131072, 1_000_000):
        assert needed_bytes(model, 2, step, tokens) == cache.needed_bytes(tokens)


def test_the_longest_sequence_is_the_last_the_cache_accepts() -> None:
    longest = longest_sequence(SCOUT, 2, 2048, 3 * GIB)
    cache = real_cache(SCOUT, 2048, 3 * GIB)
    cache.check_fits(longest)
    with pytest.raises(Exception, match="KV cache"):
        cache.check_fits(longest + 1)
    assert longest_sequence(SCOUT, 2, 2048, 0) == 0


def test_the_pool_is_empty_at_start_and_grows_to_the_request() -> None:
    plan = plan_builtin(request())
    assert plan.fits
    assert plan.ledger["KV cache at start"].bytes == 0
    assert plan.ledger.phase_bytes(Phase.POOL) == 0
    held = plan.ledger["KV cache of 1 x 100,000 tokens"]
    assert held.when is Phase.RUNTIME
    assert held.bytes == 100_000 * 131072  # 32 layers x 8 heads x 128 x 2 x 2 bytes
    assert plan.pools["bytes at the cap"] == plan.available_kv_bytes
    assert plan.weights_bytes == pytest.approx(16.06e9, rel=2e-3)


def test_the_cap_is_half_of_free_memory_unless_more_is_needed() -> None:
    gpu = find_gpu("H100")
    small, large = plan_builtin(request(context=10_000)), plan_builtin(request(concurrency=3))
    free = gpu.memory_bytes - int(0.67 * GIB) - small.weights_bytes
    assert small.available_kv_bytes == free // 2
    assert "--kv-cache-gib" not in small.flags
    assert large.fits
    assert large.available_kv_bytes >= 3 * 100_000 * 131072 > free // 2
    assert "--kv-cache-gib" in large.flags
    assert any("too small" in warning for warning in large.warnings)


def test_a_cap_given_by_hand_is_kept() -> None:
    plan = plan_builtin(request(engine_flags={"--kv-cache-gib": "4"}))
    assert plan.available_kv_bytes == 4 * GIB
    assert not plan.fits
    assert plan.capacity_tokens == 4 * GIB // 131072
    assert "4.0 GiB" in plan.reason


def test_weights_that_do_not_fit_leave_no_cache() -> None:
    plan = plan_builtin(request(SCOUT, "H100"))
    assert not plan.starts
    assert not plan.fits
    assert plan.available_kv_bytes == 0
    assert "weights leave no memory" in plan.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tp": 2}, "one GPU"),
        ({"model": load_model("deepseek-ai/DeepSeek-V3", allow_network=False)}, "does not run"),
        ({"kv_dtype": KvDtype.FP8_E4M3}, "model's dtype"),
        ({"engine_flags": {"--mem-fraction-static": "0.8"}}, "has no --mem-fraction-static"),
        ({"engine_flags": {"--dtype": "int8"}}, "--dtype is"),
    ],
)
def test_what_the_engine_cannot_do_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan_builtin(request(**changes))


def test_too_many_requests_at_once() -> None:
    plan = plan_builtin(request(concurrency=65, context=100))
    assert not plan.fits
    assert "--max-num-seqs 64" in plan.reason
