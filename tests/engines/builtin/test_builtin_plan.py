"""The built-in engine's plan is its own KV cache's arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farspan.engines.builtin.flags import read_flags
from farspan.engines.builtin.layout import cache_size
from farspan.engines.builtin.plan import plan_builtin
from farspan.engines.builtin.pool import bytes_of, longest_sequence
from farspan.engines.registry import get_engine
from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.kv.formats import KVFormat
from farspan.kv.interface import retentions
from farspan.kv.kinds import group_layers
from farspan.kv.kv_options import KVOptions
from farspan.kv.sizing import CacheSize, KindSize
from farspan.models.config import load_model
from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.planner.ledger import LedgerPhase
from farspan.planner.request import PlanRequest

GIB = 2**30
LLAMA = load_model("llama-3.1-8b", allow_network=False)
SCOUT = load_model("llama-4-scout", allow_network=False)


class Bfloat16:
    """All the cache asks of a dtype while it counts."""

    itemsize = 2


def engines_size(model: ModelSpec, step: int, segment_bytes: int, *, fp8: bool = False) -> CacheSize:
    """The sizes as the engine's cache works them out from the model's layers."""
    chunks = [
        layer.window if layer.attention is AttentionKind.CHUNKED_LOCAL else None for layer in model.layers
    ]
    form = KVFormat(model.num_kv_heads, model.layers[0].head_dim, Bfloat16(), fp8)  # type: ignore[arg-type]
    kinds = tuple(KindSize(kind, len(numbers)) for kind, numbers in group_layers(retentions(chunks)))
    return CacheSize(kinds, form.row_bytes, KVOptions().page_tokens, segment_bytes, step)


def request(
    model: ModelSpec = LLAMA, gpu: str = "H100", context: int = 100_000, **changes: object
) -> PlanRequest:
    return replace(PlanRequest(model, find_gpu(gpu), 1, 1, context), **changes)  # type: ignore[arg-type]


def size_of(model: ModelSpec, step: int, capacity_bytes: int, *, fp8: bool = False) -> CacheSize:
    """The sizes as the planner works them out for a server's flags."""
    dtype = KvDtype.FP8_E4M3 if fp8 else KvDtype.AUTO
    flags = {"--max-num-batched-tokens": str(step)}
    return cache_size(model, read_flags(request(model, kv_dtype=dtype, engine_flags=flags)), capacity_bytes)


@pytest.mark.parametrize("model", [LLAMA, SCOUT], ids=["llama", "scout"])
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("step", [512, 2048, 8192, 20000])
def test_the_cache_is_sized_as_the_engine_sizes_it(model: ModelSpec, step: int, fp8: bool) -> None:
    size = size_of(model, step, 40 * GIB, fp8=fp8)
    assert size == engines_size(model, step, size.segment_bytes, fp8=fp8)
    assert size.segment_bytes % (2 * 2**20) == 0, "a CUDA device gives memory in units of 2 MiB"


def test_the_longest_sequence_is_the_last_that_fits() -> None:
    size = size_of(SCOUT, 2048, 3 * GIB)
    longest = longest_sequence(size, 3 * GIB)
    assert size.needed_bytes(longest) <= 3 * GIB < size.needed_bytes(longest + 1)
    assert longest_sequence(size, 0) == 0


def test_a_local_layer_needs_a_chunk_and_a_step_not_the_context() -> None:
    size = size_of(SCOUT, 2048, 40 * GIB)
    full, local = size.pages(1_000_000)
    assert full == 62_500
    assert local == (8192 + 2048) // 16 + 1
    assert bytes_of(size, 1_000_000, 3) <= 3 * bytes_of(size, 1_000_000, 1), "sequences share segments"


def test_the_pool_is_empty_at_start_and_grows_to_the_request() -> None:
    plan = plan_builtin(request())
    assert plan.fits
    start = plan.ledger["KV cache at start"].bytes
    segment = start // 32
    assert start == segment * 32, "one segment a layer"
    assert plan.ledger.phase_bytes(LedgerPhase.POOL) == start < plan.available_kv_bytes / 100
    held = plan.ledger["KV cache of 1 x 100,000 tokens"]
    assert held.when is LedgerPhase.RUNTIME
    needed = 100_000 * 131072  # 32 layers x 8 heads x 128 x 2 x 2 bytes
    assert needed <= held.bytes + start < needed + start, "in whole segments"
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
    assert 0.98 * 4 * GIB / 131072 < plan.capacity_tokens <= 4 * GIB // 131072
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
        ({"kv_dtype": KvDtype.FP8_E5M2}, "fp8_e5m2"),
        ({"engine_flags": {"--mem-fraction-static": "0.8"}}, "has no --mem-fraction-static"),
        ({"engine_flags": {"--dtype": "int8"}}, "--dtype is"),
        ({"engine_flags": {"--load-format": "pt"}}, "--load-format is auto or dummy"),
    ],
)
def test_what_the_engine_cannot_do_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        get_engine("builtin").plan_server(request(**changes))


def test_switches_and_made_up_weights_are_passed_on() -> None:
    flags = read_flags(request(engine_flags={"--load-format": "dummy", "--enforce-eager": None}))
    assert flags.passed_on == ("--load-format", "dummy", "--enforce-eager")


def test_a_step_pays_for_its_own_keys_and_no_others() -> None:
    """Queries are folded for earlier keys; only a step's own are repeated for the heads that share them."""
    working = [
        next(line.bytes for line in plan.ledger.allocations if "repeated keys" in line.name)
        for context in (100_000, 1_000_000)
        for plan in [plan_builtin(request(context=context))]
    ]
    assert working[0] == working[1]
    double = plan_builtin(request(engine_flags={"--max-num-batched-tokens": "4096"}))
    assert next(line.bytes for line in double.ledger.allocations if "repeated" in line.name) == 2 * working[0]


def test_too_many_requests_at_once() -> None:
    plan = plan_builtin(request(concurrency=65, context=100))
    assert not plan.fits
    assert "--max-num-seqs 64" in plan.reason


def test_fp8_halves_what_keys_and_values_take_but_for_their_scales() -> None:
    plain, fp8 = plan_builtin(request()), plan_builtin(request(kv_dtype=KvDtype.FP8_E4M3))
    size = size_of(LLAMA, 2048, 20 * GIB, fp8=True)
    assert size.row_bytes == 2 * 8 * 128 + 2 * 8 * 4
    assert fp8.capacity_tokens == pytest.approx(plain.capacity_tokens * 4096 / 2112, rel=0.02)
    assert ("--kv-cache-dtype", "fp8_e4m3") in list(zip(fp8.flags, fp8.flags[1:], strict=False))
