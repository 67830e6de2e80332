"""An FP8 KV cache on cards that compute no FP8: SGLang's triton kernels load it as it is stored."""

from __future__ import annotations

import pytest

from farspan.engines.sglang.plan import plan_sglang
from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.request import EnginePlan, PlanRequest


def answer(model: str, gpu: str, kv: str, **flags: str) -> EnginePlan:
    return plan_sglang(
        PlanRequest(
            load_model(model, allow_network=False),
            find_gpu(gpu),
            1,
            1,
            16_000,
            engine_version="0.5.23",
            engine_flags={"--kv-cache-dtype": kv, **flags},
        )
    )


@pytest.mark.parametrize("gpu", ["A100-40GB", "RTX 3090"])
def test_triton_needs_ada_for_e4m3(gpu: str) -> None:
    with pytest.raises(InputError, match=r"below 8\.9"):
        answer("gpt-oss-20b", gpu, "fp8_e4m3")
    assert answer("gpt-oss-20b", gpu, "fp8_e5m2").starts
    with pytest.raises(InputError, match="fp8_e5m2 or bfloat16"):
        answer("qwen3-8b", gpu, "fp8_e4m3", **{"--attention-backend": "triton"})


def test_flashinfer_and_newer_cards_take_it() -> None:
    assert answer("qwen3-8b", "A100-40GB", "fp8_e4m3").starts
    assert answer("gpt-oss-20b", "RTX 4090", "fp8_e4m3").starts
    assert answer("gpt-oss-20b", "MI300X", "fp8_e4m3").starts
