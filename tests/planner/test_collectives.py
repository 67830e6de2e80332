"""What exchanging activations adds to a rank alone: assumed, by tokens, layers and links."""

from __future__ import annotations

import pytest

from farspan.engines.registry import get_engine
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.collectives import estimate_collectives
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.request import PlanRequest


def test_one_rank_exchanges_nothing() -> None:
    estimate = estimate_collectives(load_model("llama-4-scout"), find_gpu("H200"), 1, 1_000_000)
    assert estimate.prefill_s == estimate.step_s == 0
    assert estimate.formula.startswith("one rank exchanges nothing")


def test_all_reduces_of_every_layer() -> None:
    scout, h200 = load_model("llama-4-scout"), find_gpu("H200")
    estimate = estimate_collectives(scout, h200, 8, 1_000_000, chunk=8192)
    # 96 all-reduces of 5120 x 2 B, 2 x 7/8 over 360 GB/s, and 123 steps of 96 x 10 us.
    bandwidth = 96 * 5120 * 2 * 1.75 / 360e9
    assert estimate.prefill_s == pytest.approx(bandwidth * 1e6 + 123 * 96 * 10e-6, rel=1e-9)
    assert estimate.step_s == pytest.approx(bandwidth + 96 * 10e-6, rel=1e-9)
    assert estimate.basis.startswith("assumed")
    assert "96 all-reduces" in estimate.formula


def test_pcie_is_slower() -> None:
    scout = load_model("llama-4-scout")
    slow = estimate_collectives(scout, find_gpu("L40S"), 4, 100_000)
    fast = estimate_collectives(scout, find_gpu("H200"), 4, 100_000)
    assert slow.prefill_s > 5 * fast.prefill_s


def test_experts_by_all_to_all() -> None:
    deepseek, h200 = load_model("deepseek-v3"), find_gpu("H200")
    experts = sum(1 for layer in deepseek.layers if layer.moe)
    spread = estimate_collectives(deepseek, h200, 1, 8192, ep=8)
    assert f"{2 * experts} all-to-alls over 8 ranks" in spread.formula
    assert spread.prefill_s > 0
    # A model without experts sends nothing to them.
    dense = estimate_collectives(load_model("llama-3.1-8b"), h200, 1, 8192, ep=8)
    assert dense.prefill_s == 0


def test_a_prompt_that_is_never_cut_takes_one_step() -> None:
    model, h200 = load_model("llama-3.1-8b"), find_gpu("H200")
    whole, cut = (estimate_collectives(model, h200, 8, 80_000, chunk=chunk) for chunk in (-1, 8192))
    assert whole == estimate_collectives(model, h200, 8, 80_000, chunk=80_000)
    assert whole.prefill_s < cut.prefill_s


def test_vllm_plans_with_its_own_chunk() -> None:
    def prefill(*flags: str) -> float:
        flagged = parse_engine_flags(list(flags))
        request = PlanRequest(
            load_model("llama-3.1-8b"),
            find_gpu("H100"),
            8,
            8,
            100_000,
            engine_version="0.24.0",
            engine_flags=flagged,
        )
        time = get_engine("vllm").plan(request).time
        assert time is not None
        return time.ttft_expected_s

    assert (
        prefill("--max-num-batched-tokens", "1024") > prefill() > prefill("--max-num-batched-tokens", "32768")
    )
