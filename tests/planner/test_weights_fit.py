"""Weights larger than the GPUs: an answer of the planner, exit code 3, and what would help."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from farspan.cli.main import group
from farspan.engines.registry import all_engines, get_engine
from farspan.errors import DoesNotFitError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.checked import check_overrides
from farspan.planner.levers import find_fix
from farspan.planner.plan import plan_engine
from farspan.planner.questions import Question, search
from farspan.planner.request import PlanRequest
from farspan.planner.sweep import sweep
from farspan.planner.weights_fit import fewest_ranks

ONE_H100 = PlanRequest(load_model("llama-4-scout"), find_gpu("H100"), gpus=1, tp=1, context=100_000)
WHY = "take 202 GiB on each of 1 GPU, and one H100 has 79.2 GiB: use --tp 4 or more"


@pytest.mark.parametrize("engine", ["vllm", "sglang", "builtin"])
def test_the_plan_says_so_with_the_engines_ledger(engine: str) -> None:
    plan = plan_engine(ONE_H100, get_engine(engine))
    assert not plan.starts
    assert not plan.fits
    assert WHY in plan.reason
    assert plan.capacity_tokens == plan.max_concurrency == 0
    assert plan.ledger.free_bytes < 0
    assert not get_engine(engine).outline(ONE_H100).fits


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_levers_that_hold_them_are_found(engine: str) -> None:
    plan = plan_engine(ONE_H100, get_engine(engine))
    fix = find_fix(ONE_H100, plan, get_engine(engine))
    changes = {lever.change.split()[0]: lever for lever in fix.levers}
    assert changes["--gpus"].change == "--gpus 4xH100 --tp 4"
    assert changes["--gpus"].fits
    assert {"--weights", "--cpu-offload-gb"} <= changes.keys()
    assert fix.pull[-1].fits


def test_four_gpus_hold_them_and_three_do_not() -> None:
    assert fewest_ranks(ONE_H100.model, ONE_H100.gpu) == 4
    assert fewest_ranks(load_model("deepseek-v3.2"), find_gpu("L4")) in (0, 64)
    assert plan_engine(replace(ONE_H100, gpus=4, tp=4), get_engine("vllm")).fits
    assert not plan_engine(replace(ONE_H100, gpus=2, tp=2), get_engine("vllm")).starts


def test_weights_in_ram_do_not_count() -> None:
    enough = replace(ONE_H100, engine_flags={"--cpu-offload-gb": "150"})
    assert plan_engine(enough, get_engine("vllm")).fits
    little = replace(ONE_H100, engine_flags={"--cpu-offload-gb": "10"})
    assert "take 192 GiB" in plan_engine(little, get_engine("vllm")).reason


def test_sweeps_and_searches_take_it_for_an_answer() -> None:
    points = list(sweep(ONE_H100, [1_000, 100_000], all_engines()))
    assert len(points) == 2 * len(all_engines())
    assert all(point.plan is not None and WHY in point.plan.reason for point in points)
    answers = search(ONE_H100, Question.CONTEXT, [get_engine("vllm")])
    assert [(answer.value, answer.refusal) for answer in answers] == [(0, "")]
    assert search(ONE_H100, Question.GPUS, [get_engine("vllm")])[0].value == 4


def test_the_command_ends_with_3_and_its_json_is_the_plan() -> None:
    arguments = [
        "plan",
        "llama-4-scout",
        "--gpus",
        "1xH100",
        "--context",
        "100k",
        "--engine",
        "vllm",
        "--json",
    ]
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert not document["fits"]
    assert not document["starts"]
    assert WHY in document["reason"]
    assert any(lever["change"] == "--gpus 4xH100 --tp 4" for lever in document["levers"])


def test_serve_refuses_with_what_would_help() -> None:
    with pytest.raises(DoesNotFitError, match="use --tp 4 or more") as caught:
        check_overrides(ONE_H100, get_engine("vllm"))
    assert caught.value.exit_code == 3
    assert "it fits with" in caught.value.fix


def test_weights_quantized_layer_by_layer_need_not_fit_as_they_are() -> None:
    # 131 GiB in bf16, 66 in FP8: one H100 of 79 GiB loads it layer by layer, since vLLM 0.19.0.
    asked = PlanRequest(load_model("llama-3.1-70b"), find_gpu("H100"), 1, 1, 4096).with_flags(
        {
            "--quantization": "fp8",
            "--max-num-seqs": "16",
            "--enforce-eager": None,
            "--gpu-memory-utilization": "0.95",
        }
    )
    plan = get_engine("vllm").plan(replace(asked, engine_version="0.24.0"))
    assert plan.starts
    assert plan.weights_bytes < 70 * 2**30
    older = get_engine("vllm").plan(replace(asked, engine_version="0.18.0"))
    assert not older.starts
    # SGLang holds the whole checkpoint before it quantizes.
    sglang = get_engine("sglang").plan(replace(asked, engine_flags={"--quantization": "fp8"}))
    assert not sglang.starts
    # One that is too large even so does not start.
    large = replace(asked, model=load_model("llama-3.1-405b"), engine_version="0.24.0")
    assert not get_engine("vllm").plan(large).starts
