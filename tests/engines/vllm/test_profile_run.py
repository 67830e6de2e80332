"""What the profile run and CUDA graphs are predicted to take, against figures that start-up logs print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.models.config import spec_from_config
from farspan.models.spec import ModelSpec
from farspan.planner.request import EnginePlan
from farspan.sizes import GIB
from planned import plan_on

_CONFIGS = json.loads((Path(__file__).parents[3] / "benchmarks" / "vllm_servers.json").read_text("utf-8"))[
    "configs"
]


def model_of(name: str, **text: object) -> ModelSpec:
    config = json.loads(json.dumps(_CONFIGS[name]))
    config["text_config"].update(text)
    return spec_from_config(config, name)


def planned(model: ModelSpec, gpus: str, version: str, *flags: str) -> EnginePlan:
    return plan_on("vllm", version, model, gpus, 4096, *flags)


def taken(plan: EnginePlan, name: str) -> float:
    return sum(line.bytes for line in plan.ledger.allocations if line.name == name) / GIB


@pytest.mark.parametrize(("requests", "printed"), [(2, 0.13), (4, 0.17)])
def test_short_lists_of_graphs_take_little(requests: int, printed: float) -> None:
    """64 layers, three draft tokens: 5 sizes up to 16 tokens, and 7 up to 32."""
    model = model_of(
        "Qwen3.5-9B",
        num_hidden_layers=64,
        layer_types=None,
    )
    flags = (
        "--max-num-seqs",
        str(requests),
        "--speculative-config",
        '{"method":"ngram","num_speculative_tokens":3}',
    )
    estimates = [
        planned(model, "2xRTX-3090", "0.20.0", *flags, *extra).available_kv_bytes
        for extra in ((), ("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0",))
    ]
    assert (estimates[1] - estimates[0]) / GIB == pytest.approx(printed, abs=0.02)


def test_a_vision_tower_is_shared_out_over_the_ranks() -> None:
    model = model_of("Qwen3.5-4B")
    flags = ("--enforce-eager",)
    one, two = (planned(model, gpus, "0.24.0", *flags) for gpus in ("1xA100-40GB", "2xA100-40GB"))
    name = "vision tower at its largest images"
    assert taken(one, name) == pytest.approx(1.70, abs=0.02)  # printed
    whole, shared = taken(one, name), taken(two, name)
    assert whole / 2 < shared < whole


def test_an_encoder_may_be_whole_on_every_rank() -> None:
    model = model_of("Qwen3.5-4B")
    shared, whole = (
        planned(model, "2xA100-40GB", "0.24.0", "--enforce-eager", *flags)
        for flags in ((), ("--mm-encoder-tp-mode", "data"))
    )
    alone = planned(model, "1xA100-40GB", "0.24.0", "--enforce-eager")
    name = "vision tower at its largest images"
    assert taken(whole, name) == taken(alone, name)
    vision = sum(weight.count for weight in model.weights if weight.part.value in ("vision", "projector"))
    # Nearly all of it is shared out otherwise: half is half of what a rank gains.
    assert whole.weights_bytes - shared.weights_bytes == pytest.approx(vision * 2 / 2, rel=0.02)


def test_gemma_4_takes_one_video_at_a_time_and_every_layer_has_inputs_of_its_own() -> None:
    model = model_of("gemma-4-E2B-it")
    plan = planned(model, "1xMI300X", "0.29.0")
    assert not taken(plan, "vision tower at its largest images")
    without = model_of("gemma-4-E2B-it", hidden_size_per_layer_input=0)
    step = "activations of the largest step"
    inputs = 16384 * 35 * 256 * 2 / GIB
    assert taken(plan, step) - taken(planned(without, "1xMI300X", "0.29.0"), step) == pytest.approx(
        inputs, abs=0.01
    )


def test_graphs_are_estimated_on_amd_from_0_26() -> None:
    model = model_of("Qwen3.5-4B")
    off = "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0"
    for version, estimated in (("0.25.1", False), ("0.26.0", True)):
        with_, without = (planned(model, "1xMI300X", version, *flags) for flags in ((), (off,)))
        assert (without.available_kv_bytes > with_.available_kv_bytes) is estimated


def test_what_is_taken_outside_torch_depends_on_the_generation() -> None:
    model = model_of("Qwen3.5-4B")
    name = "kernels and workspaces outside torch"
    outside = [
        taken(planned(model, f"1x{gpu}", "0.20.0"), name)
        for gpu in ("A100-40GB", "RTX-5090", "H100", "MI300X")
    ]
    assert outside == sorted(outside)
    assert outside[0] == pytest.approx(0.12, abs=0.01)
