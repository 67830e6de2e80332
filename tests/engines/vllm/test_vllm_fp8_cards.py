"""An FP8 KV cache on cards that compute no FP8: FlashInfer converts it, Triton does not."""

from __future__ import annotations

import pytest

from farspan.models.config import load_model
from farspan.planner.request import EnginePlan
from planned import plan_on


def answer(model: str, gpu: str, count: int, kv: str = "fp8_e4m3", version: str = "0.24.0") -> EnginePlan:
    flags = "--kv-cache-dtype", kv
    return plan_on("vllm", version, load_model(model, allow_network=False), f"{count}x{gpu}", 16_000, *flags)


@pytest.mark.parametrize("gpu", ["A100-80GB", "A6000"])
def test_flashinfer_serves_it_before_ada(gpu: str) -> None:
    """Qwen3.6 27B runs so on public RTX 3090s."""
    assert answer("llama-3.1-8b", gpu, 1).starts
    assert answer("qwen3.5-27b", gpu, 2).starts


@pytest.mark.parametrize("version", ["0.12.0", "0.24.0", "0.33.0"])
@pytest.mark.parametrize("kv", ["fp8", "fp8_e5m2"])
def test_sinks_and_latents_need_a_newer_card(version: str, kv: str) -> None:
    for model, count in (("gpt-oss-20b", 1), ("deepseek-v3", 16)):
        refused = answer(model, "A100-80GB", count, kv, version)
        assert not refused.starts
        assert "compute capability 8.9" in refused.reason
        assert answer(model, "A100-80GB", count, "bfloat16", version).starts
    assert answer("gpt-oss-20b", "H100", 1, "fp8", version).starts
    assert answer("gpt-oss-20b", "L40S", 1, "fp8", version).starts


def test_volta_has_triton_alone() -> None:
    assert not answer("llama-3.1-8b", "V100-32GB", 1).starts
