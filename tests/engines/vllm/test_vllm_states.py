"""Recurrent states in vLLM's cache: drafted tokens, and a block for each request."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.engines.vllm.layout import kv_layout
from farspan.engines.vllm.plan import plan_vllm
from farspan.engines.vllm.pool import VllmKvLayout
from farspan.engines.vllm.state_dtypes import with_state_dtype
from farspan.engines.vllm.versions import RULES
from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.models.spec import KvDtype
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.sizes import GIB


def layout_of(version: str, drafted: int) -> VllmKvLayout:
    settings: dict[str, Any] = {"tp": 1, "kv_dtype": KvDtype.FP8, "block_size": 16, "hybrid": True}
    model = load_model("qwen3.5-27b", allow_network=False)
    return kv_layout(model, RULES[version], prefix_caching=True, draft_tokens=drafted, **settings)


def test_drafted_tokens_lengthen_the_states_and_count_as_states() -> None:
    """Public starts of Qwen3.6 27B with MTP: blocks of 1,600 tokens; 16 of 48 layers and the draft's share a block."""
    plain, drafting = (layout_of("0.24.0", drafted) for drafted in (0, 2))
    assert plain.block_size == 1568
    assert drafting.block_size == 1600
    held = [sum(group.blocks(1, 0) for group in layout.groups) for layout in (plain, drafting)]
    assert held == [1 + 3 * 2, 1 + 3 * 4]
    before = layout_of("0.14.0", 2)
    assert sum(group.blocks(1, 0) for group in before.groups) == held[0]


def test_what_a_server_with_drafts_printed_follows_from_its_kv_memory() -> None:
    """One DGX Spark (48.6 GiB, 2 drafts, nightly of 0.23.1) and two RTX 3090s (5.33 GiB each, 3 drafts, 0.24.0)."""
    for version, gpus, tp, gib, drafts, printed in (
        ("0.23.1", "GB10", 1, 48.6, 2, 1_394_129),
        ("0.24.0", "RTX 3090", 2, 5.33, 3, 300_220),
    ):
        answer = plan_vllm(
            PlanRequest(
                load_model("qwen3.5-27b", allow_network=False),
                find_gpu(gpus),
                tp,
                tp,
                262_144,
                engine_version=version,
                engine_flags={
                    "--kv-cache-dtype": "fp8",
                    "--enable-prefix-caching": "",
                    "--speculative-config": f'{{"method": "mtp", "num_speculative_tokens": {drafts}}}',
                },
                available_kv_bytes=int(gib * GIB),
                as_given=True,
            )
        )
        assert answer.printed["GPU KV cache size"] == pytest.approx(printed, rel=0.0005)


def test_prefix_caching_of_recurrent_models_is_on_from_0_26() -> None:
    """Two RTX 5090s, 0.26.1rc1 (recipes #810): 491 blocks hold 377,456 tokens, a request 335 and 3 x 2 states."""
    found = [
        plan_vllm(
            PlanRequest(
                load_model("qwen3.5-27b", allow_network=False),
                find_gpu("RTX 5090"),
                2,
                2,
                262_144,
                engine_version=version,
                available_kv_bytes=491 * 25_690_112,
                as_given=True,
            )
        ).printed["GPU KV cache size"]
        for version in ("0.25.1", "0.26.1rc1")
    ]
    assert found == [491 * 262_144 // 338, 377_456]


class TestBlocksForStates:
    """A pool with fewer blocks than requests (vllm config/compilation.py: resolve_cudagraph_mode_and_sizes)."""

    def answer(self, *flags: str, version: str = "0.27.1", as_given: bool = False) -> EnginePlan:
        return plan_vllm(
            PlanRequest(
                load_model("qwen3.5-27b", allow_network=False),
                find_gpu("RTX PRO 6000"),
                1,
                1,
                100_000,
                engine_version=version,
                engine_flags=parse_engine_flags(["--gpu-memory-utilization", "0.9", *flags]),
                as_given=as_given,
            )
        )

    def test_stops_the_server(self) -> None:
        refused = self.answer(as_given=True)
        assert not refused.starts
        assert "--max-num-seqs 1024 exceeds the" in refused.reason
        assert self.answer("--enforce-eager", as_given=True).starts
        assert self.answer("-cc", '{"cudagraph_mode": "PIECEWISE"}', as_given=True).starts
        assert self.answer("--max-num-seqs=256", as_given=True).starts
        assert self.answer(version="0.19.0", as_given=True).starts

    def test_is_cured_by_fewer_requests(self) -> None:
        cured = self.answer()
        assert cured.starts
        assert cured.added == ("--max-num-seqs 256",)
        assert any(
            "recurrent state in a block of its own" in note for note in (*cured.notes, *cured.warnings)
        )

    def test_by_hand_stays(self) -> None:
        refused = self.answer("--max-num-seqs=1024")
        assert not refused.starts
        assert refused.added == ()


class TestStatesOfAnotherType:
    """--mamba-ssm-cache-dtype, as the recipes of Nemotron 3 and Qwen 3.5 give it."""

    def pages(self, model: str, dtype: str = "", version: str = "0.24.0") -> EnginePlan:
        flags = {"--mamba-ssm-cache-dtype": dtype} if dtype else {}
        spec = load_model(model, allow_network=False)
        return plan_vllm(
            PlanRequest(spec, find_gpu("H200"), 1, 1, 32_000, engine_version=version, engine_flags=flags)
        )

    def test_half_the_state_is_half_the_block(self) -> None:
        """A state of 48 x 128 x 128 values, in float32 3 MiB: pages of 784 tokens of 4,096 bytes hold it."""
        layouts = {
            dtype: kv_layout(
                with_state_dtype(load_model("qwen3.5-27b", allow_network=False), dtype),
                RULES["0.24.0"],
                tp=1,
                kv_dtype=KvDtype.AUTO,
                block_size=16,
                hybrid=True,
                prefix_caching=True,
            ).block_size
            for dtype in ("", "float32", "float16", "bfloat16")
        }
        assert layouts == {"": 784, "float32": 784, "float16": 400, "bfloat16": 400}

    def test_the_plan_follows(self) -> None:
        own, half = self.pages("qwen3.5-27b"), self.pages("qwen3.5-27b", "float16")
        assert half.max_concurrency > own.max_concurrency
        assert half.flags[-2:] == ("--mamba-ssm-cache-dtype", "float16")

    def test_states_without_a_choice_stay(self) -> None:
        model = load_model("llama-3.1-8b", allow_network=False)
        assert with_state_dtype(model, "float16") == model

    @pytest.mark.parametrize(
        ("version", "dtype"), [("0.19.0", "float32"), ("0.21.0", "bfloat16"), ("0.24.0", "int8")]
    )
    def test_a_release_without_it_refuses(self, version: str, dtype: str) -> None:
        with pytest.raises(InputError, match="--mamba-ssm-cache-dtype"):
            self.pages("qwen3.5-27b", dtype, version)
