"""One rank as vLLM's own classes make it, and the model that stands for it: the same parameters, the same states."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from farspan.engines.registry import get_engine
from farspan.models.shard.division import Division
from farspan.models.shard.rank_config import RankShard, shard_config
from farspan.models.shard.write_shard import write_shard

pytestmark = pytest.mark.engines

TP = 4
_COMMON = {
    "vocab_size": 4096, "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 1024, "max_position_embeddings": 8192, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "nemotron-h": {
        **_COMMON, "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "head_dim": 64,
        "hybrid_override_pattern": "M*-M", "mamba_num_heads": 16, "mamba_head_dim": 64, "n_groups": 4,
        "ssm_state_size": 128, "conv_kernel": 4, "expand": 2, "use_conv_bias": True, "use_bias": False,
        "attention_bias": False, "mlp_bias": False, "mamba_ssm_cache_dtype": "float32",
    },
    "falcon-h1": {
        **_COMMON, "architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1", "head_dim": 64,
        "mamba_d_ssm": 1024, "mamba_n_heads": 16, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 128,
        "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False,
        "mamba_rms_norm": False, "rope_theta": 1e6,
    },
    "qwen2": {
        **_COMMON, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_theta": 1e6,
        "use_sliding_window": False,
    },
}  # fmt: skip


class Made(NamedTuple):
    """A model farspan cut for one rank, and what vLLM makes of the rank and of the cut model."""

    shard: RankShard
    rank: Mapping[str, Any]
    alone: Mapping[str, Any]


@pytest.fixture(scope="module")
def made(engines_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Every model, by one process that imports vLLM once."""
    home = tmp_path_factory.mktemp("ranks")
    shards: dict[str, RankShard] = {}
    questions: list[str] = []
    for name, config in MODELS.items():
        form = get_engine("vllm").config_form(config["architectures"][0], "0.32.0")
        shards[name] = shard_config(config, name, Division(TP), form=form)
        whole, cut = home / name / "whole", home / name / "shard"
        whole.mkdir(parents=True)
        (whole / "config.json").write_text(json.dumps(config))
        write_shard(shards[name], cut)
        questions += [str(whole), str(TP), str(cut), "1"]
    answers = _made_by_vllm(engines_python, questions)
    return {
        name: Made(shard, rank, alone)
        for (name, shard), rank, alone in zip(shards.items(), answers[::2], answers[1::2], strict=True)
    }


def _made_by_vllm(python: Path, questions: Sequence[str]) -> list[Mapping[str, Any]]:
    script = Path(__file__).with_name("vllm_parameters.py")
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [python, script, *questions],
        capture_output=True, text=True, env=environment, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"bytes"')]


@pytest.mark.parametrize("name", MODELS)
def test_vllm_makes_of_a_shard_what_it_makes_of_a_rank(made: dict[str, Made], name: str) -> None:
    shard, rank, alone = made[name]
    assert alone == rank
    assert shard.weight_bytes == pytest.approx(alone["bytes"], rel=0.001)
    states = next((layer.states for layer in shard.spec.layers if layer.states), ())
    assert sorted(prod(shape) for shape in alone["states"]) == sorted(prod(state.shape) for state in states)
