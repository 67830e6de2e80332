"""One rank of a model alone on one H200, vLLM 0.24.0 eager: what the plan says beside what the engine printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from farspan.engines.registry import get_engine
from farspan.models.config import read_model_config, spec_from_config
from farspan.models.shard.division import Division
from farspan.models.shard.rank_config import shard_config
from farspan.models.spec import ModelSpec
from farspan.planner.request import EnginePlan
from farspan.sizes import GIB
from planned import plan_on

_REHEARSALS = Path(__file__).parents[3] / "benchmarks" / "rehearsals"
_GEMMA = str(_REHEARSALS / "gemma-3-27b.json")
_EAGER = ("VLLM_USE_FLASHINFER_SAMPLER=0", "--enforce-eager")


def rank_of(model: str) -> ModelSpec:
    config, name = read_model_config(model, allow_network=False)
    architectures = config["architectures"]
    assert isinstance(architectures, list)
    form = get_engine("vllm").config_form(architectures[0], "0.24.0")
    return spec_from_config(dict(shard_config(config, name, Division(8), form=form).config), name)


def planned(model: str, context: int, *flags: str, version: str = "0.24.0") -> EnginePlan:
    return plan_on("vllm", version, rank_of(model), "1xH200", context, *_EAGER, *flags)


def taken(plan: EnginePlan, name: str) -> float:
    return sum(line.bytes for line in plan.ledger.allocations if line.name == name) / GIB


@pytest.mark.parametrize(
    ("model", "printed"),
    [
        (_GEMMA, "6.67"),
        (str(_REHEARSALS / "qwen3-next-80b-a3b.json"), "18.69"),
        ("llama-4-scout", "27.60"),
        ("llama-3.1-70b", "16.49"),
    ],
)
def test_loading_takes_what_was_printed(model: str, printed: str) -> None:
    assert f"{planned(model, 131_072, '--max-num-seqs', '64').weights_bytes / GIB:.2f}" == printed


def test_a_norm_in_float32_holds_the_most_of_an_eager_step() -> None:
    plan = planned(_GEMMA, 131_072)
    assert f"{taken(plan, 'activations of the largest step'):.2f}" == "0.93"
    assert plan.available_kv_bytes / GIB == pytest.approx(120.79, rel=0.001)
    # Compiled as one kernel before 0.20.0, whose samplers and products hold the most.
    assert taken(planned(_GEMMA, 131_072, version="0.19.0"), "activations of the largest step") < 0.93
    # Llama's norms multiply by their weight in its own dtype, in one kernel.
    assert taken(planned("llama-3.1-70b", 131_072), "activations of the largest step") < 0.93


def test_compiled_models_fuse_their_norms() -> None:
    model = rank_of(_GEMMA)
    eager, compiled = (
        plan_on("vllm", "0.24.0", model, "1xH200", 131_072, *flags) for flags in (_EAGER, _EAGER[:1])
    )
    assert taken(compiled, "activations of the largest step") < taken(
        eager, "activations of the largest step"
    )
