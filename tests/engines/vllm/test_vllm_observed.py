"""Every vLLM figure that real servers, or vLLM's own code, printed for Scout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farspan.engines.vllm.layout import kv_layout
from farspan.engines.vllm.plan import plan_vllm
from farspan.engines.vllm.pool import NULL_BLOCKS, VllmKvLayout
from farspan.engines.vllm.printed import SIZE_KEY, concurrency_key, kv_cache_size_tokens
from farspan.engines.vllm.versions import RULES, SizeLine
from farspan.models.config import load_model
from farspan.models.spec import KvDtype
from farspan.planner.request import EnginePlan
from scout import GIB, H200, one_rank, request, scout

OBSERVED: dict[str, Any] = json.loads(Path(__file__).with_name("observed.json").read_text())
TABLE = OBSERVED["table"]
TP8 = OBSERVED["tp8_0_12_0"]
ONE_RANK = OBSERVED["one_rank_0_24_0"]
HYBRID_OFF = {"--disable-hybrid-kv-cache-manager": None}
SYNCHRONOUS = {"--no-async-scheduling": None}
MIB = 2**20


def size_lines(layout: VllmKvLayout, num_blocks: int, max_model_len: int, in_flight: int) -> tuple[str, ...]:
    """The lines of the log, without time stamps: two of them, one from 0.29.0."""
    size = f"{SIZE_KEY}: {kv_cache_size_tokens(layout, num_blocks, max_model_len, in_flight):,} tokens"
    ratio = layout.concurrency(num_blocks, max_model_len, in_flight)
    concurrency = f"{concurrency_key(max_model_len)}: {ratio:.2f}x"
    if layout.rules.size_line is SizeLine.ONE_LINE:
        return (f"{size}, {concurrency}",)
    return (size, concurrency)


def row_plan(row: dict[str, Any], available: int, flags: dict[str, str | None]) -> EnginePlan:
    hybrid = {} if row["hybrid"] else HYBRID_OFF
    return plan_vllm(
        request(
            row["max_model_len"],
            row["version"],
            available_kv_bytes=available,
            kv_dtype=KvDtype(row.get("kv", "auto")),
            engine_flags={**hybrid, **flags},
        )
    )


@pytest.mark.parametrize("available", [TABLE["available_from"], TABLE["available_to"]])
@pytest.mark.parametrize("row", TABLE["rows"], ids=lambda row: f"{row['version']}-{row['max_model_len']}")
def test_table(row: dict[str, Any], available: int) -> None:
    plan = row_plan(row, available, SYNCHRONOUS)
    low, high = row["printed"]
    if row["version"] == "0.12.0" or available == TABLE["available_from"]:
        assert low <= plan.printed[SIZE_KEY] <= high
    else:
        # From 0.21.0 the size is not rounded to blocks: four blocks more in the pool show as 47 tokens or so.
        assert 0 < plan.printed[SIZE_KEY] - high < 16 * 8
    if "x" in row:
        assert plan.printed[concurrency_key(row["max_model_len"])] == row["x"]
        assert round(plan.max_concurrency, 2) == row["x"]
        assert plan.starts
    if "two_batches_x" in row:
        two = row_plan(row, available, {})
        assert two.printed[concurrency_key(row["max_model_len"])] == row["two_batches_x"]


@pytest.mark.parametrize("row", TABLE["refused"], ids=lambda row: f"{row['version']}-{row['max_model_len']}")
def test_refused(row: dict[str, Any]) -> None:
    flags: dict[str, str | None] = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    plan = row_plan(row, TABLE["available_from"], flags)
    assert not plan.starts
    assert not plan.fits
    assert "vLLM refuses to start" in plan.reason
    if "estimated" in row:
        assert plan.printed["estimated maximum model length"] == row["estimated"]


@pytest.mark.parametrize(
    "case", TP8["max_concurrency"], ids=lambda case: f"{case['max_model_len']}-{case['x']}"
)
def test_tp8_concurrency_at_the_printed_memory(case: dict[str, Any]) -> None:
    for gib in (TP8["available_kv_gib"] - 0.005, TP8["available_kv_gib"] + 0.0049):
        plan = row_plan({**case, "version": "0.12.0"}, int(gib * GIB), {})
        assert plan.printed[concurrency_key(case["max_model_len"])] == case["x"]


@pytest.mark.parametrize(("kv", "tokens"), TP8["printed_tokens"].items())
def test_tp8_printed_size_is_within_the_rounding_of_the_printed_memory(kv: str, tokens: int) -> None:
    sizes = [
        plan_vllm(
            request(5_242_880, "0.12.0", available_kv_bytes=int(gib * GIB), kv_dtype=KvDtype(kv))
        ).printed[SIZE_KEY]
        for gib in (TP8["available_kv_gib"] - 0.005, TP8["available_kv_gib"] + 0.005)
    ]
    assert sizes[0] <= tokens <= sizes[1]


@pytest.mark.parametrize("seen", TP8["kv_usage"], ids=lambda seen: str(seen["prompt_tokens"]))
def test_kv_usage_of_a_running_request(seen: dict[str, Any]) -> None:
    layout = kv_layout(
        scout(), RULES["0.12.0"], tp=8, kv_dtype=KvDtype.AUTO, block_size=16, hybrid=True, prefix_caching=True
    )
    blocks = layout.num_blocks(TABLE["available_from"])
    # Once the prompt is done a chunked layer holds its current chunk only.
    tokens = seen["prompt_tokens"] + seen["output_tokens"]
    held = sum(group.blocks(tokens % (group.spec.window or tokens + 1), 0) for group in layout.groups)
    assert round(held / (blocks - NULL_BLOCKS), 3) == seen["usage"]


def test_available_memory_predicted_at_tp8() -> None:
    flags: dict[str, str | None] = {"--gpu-memory-utilization": "0.90"}
    plan = plan_vllm(request(5_242_880, "0.12.0", engine_flags=flags))
    assert plan.available_kv_bytes / GIB == pytest.approx(TP8["available_kv_gib"], rel=0.02)
    assert plan.weights_bytes / GIB == pytest.approx(TP8["weights_gib"], rel=0.002)
    assert plan.starts


def test_available_memory_predicted_for_one_rank() -> None:
    flags: dict[str, str | None] = {"--gpu-memory-utilization": "0.90"}
    plan = plan_vllm(
        request(ONE_RANK["max_model_len"], "0.24.0", model=one_rank(), gpus=1, tp=1, engine_flags=flags)
    )
    assert plan.available_kv_bytes / GIB == pytest.approx(ONE_RANK["available_kv_gib"], rel=0.02)
    assert plan.weights_bytes / GIB == pytest.approx(ONE_RANK["weights_gib"], rel=0.002)
    used = plan.ledger.gpu_bytes / MIB
    assert used == pytest.approx(ONE_RANK["used_mib_when_ready"], rel=0.02)
    assert plan.ledger["CUDA graphs"].bytes / GIB == pytest.approx(ONE_RANK["cuda_graph_gib"], abs=0.005)


def test_memory_used_at_tp8_is_between_hybrid_off_and_on() -> None:
    # The log does not say with which of the two the 133,000 MiB were read.
    flags: dict[str, str | None] = {"--gpu-memory-utilization": "0.90"}
    on = plan_vllm(request(5_242_880, "0.12.0", engine_flags=flags)).ledger.gpu_bytes / MIB
    off = plan_vllm(request(5_242_880, "0.12.0", engine_flags={**flags, **HYBRID_OFF})).ledger.gpu_bytes / MIB
    assert off == pytest.approx(TP8["used_mib_when_ready"], rel=0.025)
    assert on == pytest.approx(TP8["used_mib_when_ready"], rel=0.025)


def test_one_rank_prints() -> None:
    """Some memory that rounds to the printed 94.88 GiB gives the printed size and concurrency."""
    rules = RULES["0.24.0"]
    layout = kv_layout(
        one_rank(), rules, tp=1, kv_dtype=KvDtype.AUTO, block_size=16, hybrid=True, prefix_caching=True
    )
    gib = ONE_RANK["available_kv_gib"]
    low, high = (layout.num_blocks(int((gib + off) * GIB)) for off in (-0.005, 0.005))
    printed = {size_lines(layout, blocks, ONE_RANK["max_model_len"], 8192) for blocks in range(low, high + 1)}
    expected = (
        f"GPU KV cache size: {ONE_RANK['printed_tokens']:,} tokens",
        f"Maximum concurrency for 5,242,880 tokens per request: {ONE_RANK['max_concurrency_x']:.2f}x",
    )
    assert expected in printed


def test_the_observed_failure_is_predicted() -> None:
    """0.95 of the card and 8,388,608 tokens: out of memory while the sampler warmed up; at 0.90 it ran."""
    flags: dict[str, str | None] = {"--gpu-memory-utilization": "0.95"}
    plan = plan_vllm(request(8_388_608, "0.12.0", engine_flags=flags))
    assert not plan.starts
    assert "short while the server warms up" in plan.reason
    assert plan.ledger["block tables"].bytes == 4 * 1024 * 524_288 * 4
    assert plan_vllm(request(8_388_608, "0.12.0", engine_flags={"--gpu-memory-utilization": "0.90"})).starts


def test_e5m2_meets_the_quantized_query() -> None:
    plan = plan_vllm(request(5_242_880, "0.12.0", kv_dtype=KvDtype.FP8_E5M2))
    assert not plan.starts
    assert "use fp8_e4m3" in plan.reason
    assert plan_vllm(request(5_242_880, "0.24.0", kv_dtype=KvDtype.FP8_E5M2)).starts


def test_five_million_tokens_against_a_pool_of_under_four_hang() -> None:
    row = {"version": "0.12.0", "max_model_len": 5_242_880, "hybrid": False}
    plan = row_plan(row, TABLE["available_from"], {})
    assert plan.starts
    assert not plan.fits
    assert plan.capacity_tokens == 3_919_664 - 16
    assert any("waits for ever" in warning for warning in plan.warnings)


def test_recurrent_pages_as_logged() -> None:
    seen = OBSERVED["recurrent"]
    model = load_model(seen["model"], allow_network=False)
    layout = kv_layout(
        model,
        RULES["0.24.0"],
        tp=1,
        kv_dtype=KvDtype(seen["kv"]),
        block_size=16,
        hybrid=True,
        prefix_caching=False,
    )
    state = next(group.spec for group in layout.groups if group.spec.state_bytes)
    assert layout.block_size == seen["block_size"]
    padding = (state.page_bytes - state.state_bytes) / state.state_bytes
    assert round(100 * padding, 2) == seen["padding_percent"]


def test_h200_is_the_card_of_the_runs() -> None:
    assert pytest.approx(139.8, abs=0.01) == H200.memory_bytes / GIB
