"""Flags as their parsers take them: any beginning that one flag has, and for vLLM underscores for dashes."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.engines.registry import get_engine
from farspan.engines.vllm.known_flags import spell_out
from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.request import EnginePlan, PlanRequest


def answer(engine: str, model: str, flags: dict[str, str | None], **sizes: Any) -> EnginePlan:
    spec = load_model(model, allow_network=False)
    asked = {"gpus": 8, "tp": 8, "context": 32_000, **sizes}
    return get_engine(engine).plan(PlanRequest(spec, find_gpu("H200"), engine_flags=flags, **asked))


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("--tensor_parallel", "--tensor-parallel-size"),
        ("--gpu-memory-util", "--gpu-memory-utilization"),
        ("--max-num-batched", "--max-num-batched-tokens"),
        ("--max_model_len", "--max-model-len"),
        ("--model", "--model"),
        ("--max-num", "--max-num"),  # of several flags
        ("-tp", "-tp"),
        ("VLLM_USE_V1", "VLLM_USE_V1"),
    ],
)
def test_vllm_takes_a_beginning_of_one_flag(short: str, whole: str) -> None:
    assert spell_out({short: "1"}, "0.24.0") == {whole: "1"}


def test_a_flag_of_another_release_is_no_answer_to_a_beginning() -> None:
    """--kv-cache-memory-bytes came with 0.10.2 (vllm/config/cache.py)."""
    assert spell_out({"--kv-cache-mem": "1"}, "0.9.2") == {"--kv-cache-mem": "1"}
    assert spell_out({"--kv-cache-mem": "1"}, "0.24.0") == {"--kv-cache-memory-bytes": "1"}


def test_shortened_flags_plan_as_whole_ones() -> None:
    short = answer("vllm", "llama-3.1-8b", {"--gpu-memory-util": "0.5", "--data_parallel_size": "2"}, tp=4)
    whole = answer(
        "vllm", "llama-3.1-8b", {"--gpu-memory-utilization": "0.5", "--data-parallel-size": "2"}, tp=4
    )
    assert short.max_concurrency == whole.max_concurrency
    assert short.flags == whole.flags


def test_a_beginning_of_several_is_refused() -> None:
    with pytest.raises(InputError, match="has no --max-num"):
        answer("vllm", "llama-3.1-8b", {"--max-num": "2"})


def test_groups_of_sglang_are_counted_by_their_short_name() -> None:
    """As DeepSeek V3.2's own command is written: --tp 8 --dp 8 --enable-dp-attention."""
    short = answer("sglang", "deepseek-v3", {"--tp": "8", "--dp": "8", "--enable-dp-attention": None})
    whole = answer(
        "sglang", "deepseek-v3", {"--tp-size": "8", "--dp-size": "8", "--enable-dp-attention": None}
    )
    assert short.flags == whole.flags
    assert short.max_concurrency == whole.max_concurrency
