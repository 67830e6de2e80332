"""One rank as a model of its own: the layers, KV bytes and weights of the rank, or a refusal by name."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from farspan.engines.registry import get_engine
from farspan.errors import InputError, UnsupportedError
from farspan.hardware.catalog import find_gpu
from farspan.models import catalog
from farspan.models.config import load_model, spec_from_config
from farspan.models.shard.config_form import ConfigForm
from farspan.models.shard.division import Division
from farspan.models.shard.dummy_weights import WEIGHTS_FILE, list_tensors, write_dummy_weights
from farspan.models.shard.rank_config import RankShard, shard_config
from farspan.models.shard.rank_share import routing_tables
from farspan.models.shard.write_shard import write_shard
from farspan.models.spec import KvDtype, ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import checkpoint_bytes, rank_weight_bytes
from farspan.planner.request import PlanRequest

from .test_families import FACTS

CONFIGS: dict[str, dict[str, Any]] = {entry.name: entry.config() for entry in catalog.entries()}
CONFIGS |= {name: config for name, (config, *_) in FACTS.items()}
# Those that must work, whatever else is refused: the families people serve on several GPUs.
DIVIDED_BY_8 = (
    "llama-4-scout-17b-16e-instruct", "llama-4-maverick-17b-128e-instruct", "meta-llama-3.1-70b",
    "meta-llama-3.1-405b", "qwen3-235b-a22b", "qwen2.5-3b", "mixtral-8x7b-v0.1", "gpt-oss-120b", "deepseek-v3",
    "deepseek-v3.2", "kimi-k2.5", "qwen3-next-80b-a3b", "qwen3.5-397b-a17b", "gemma-4-26b-a4b", "mimo-v2-flash",
    "deepseek-v4-flash", "kimi-k3", "minimax-m3", "nemotron-3-nano-30b-a3b",
)  # fmt: skip


def _shard(name: str, **division: Any) -> RankShard:
    return shard_config(CONFIGS[name], name, Division(**division))


def _try(name: str, tp: int) -> RankShard | UnsupportedError:
    try:
        return _shard(name, tp=tp)
    except UnsupportedError as error:
        return error


def _text_weights(spec: ModelSpec, tp: int) -> int:
    parts = rank_weight_bytes(spec, tp).by_part
    return sum(size for part, size in parts.items() if part not in (WeightPart.VISION, WeightPart.PROJECTOR))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shard_is_the_share_of_a_rank_or_refused_by_name(name: str) -> None:
    whole = spec_from_config(CONFIGS[name], name)
    for tp in (1, 2, 4, 8, 16, 3):
        shard = _try(name, tp)
        if isinstance(shard, UnsupportedError):
            assert f"no shard of {name} at TP {tp}: " in shard.message
            assert shard.fix
            assert tp > 1 or "would not be read" in shard.message
            continue
        rank = shard.spec
        for dtype in (KvDtype.AUTO, KvDtype.FP8):
            for context in (1000, 100_000):
                assert rank.kv_bytes(context, dtype) == whole.kv_bytes(context, dtype, tp)
        # The vocabulary is padded to a multiple of 64 rows once more, and norms over all heads are counted whole.
        rounding = 2 * 64 * whole.hidden_size * whole.dtype_bytes + _text_weights(whole, tp) * 0.002
        assert abs(_text_weights(rank, 1) - _text_weights(whole, tp)) <= rounding


@pytest.mark.parametrize("name", DIVIDED_BY_8)
def test_the_families_people_divide_are_divided(name: str) -> None:
    shard = _shard(name, tp=8)
    assert shard.spec.num_layers == shard.whole.num_layers
    assert any("no collectives" in sentence for sentence in shard.differences)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("name", ["llama-4-scout-17b-16e-instruct", "meta-llama-3.1-70b", "gpt-oss-120b"])
def test_an_engine_plans_a_shard_as_it_plans_a_rank(name: str, engine: str) -> None:
    shard = _shard(name, tp=8)
    gpu = find_gpu("H200")
    whole = get_engine(engine).outline(PlanRequest(shard.whole, gpu, 8, 8, 100_000))
    rank = get_engine(engine).outline(PlanRequest(shard.spec, gpu, 1, 1, 100_000))
    towers = sum(
        size
        for part, size in rank_weight_bytes(shard.whole, 8).by_part.items()
        if part in (WeightPart.VISION, WeightPart.PROJECTOR)
    )
    # An engine that leaves a model's encoders alone does not count them.
    without = min(
        whole.weights_bytes, whole.weights_bytes - towers, key=lambda one: abs(one - rank.weights_bytes)
    )
    assert rank.weights_bytes == pytest.approx(without, rel=0.001)


def test_scout_at_tp_8_is_the_rank_that_real_engines_ran() -> None:
    shard = _shard("llama-4-scout-17b-16e-instruct", tp=8)
    fields = shard.config
    assert fields["architectures"] == ["Llama4ForCausalLM"]
    assert (fields["num_attention_heads"], fields["num_key_value_heads"], fields["head_dim"]) == (5, 1, 128)
    assert (fields["intermediate_size"], fields["intermediate_size_mlp"]) == (1024, 2048)
    assert (fields["vocab_size"], fields["num_local_experts"], fields["hidden_size"]) == (25256, 16, 5120)
    assert any("encoders" in sentence for sentence in shard.differences)


def test_more_ranks_than_kv_heads_copy_them() -> None:
    shard = _shard("meta-llama-3.1-70b", tp=16)
    assert shard.config["num_key_value_heads"] == 1
    assert shard.config["head_dim"] == 128
    assert any("one of 8, of which 16 ranks hold 2 copies each" in line for line in shard.differences)


def test_what_cannot_be_divided_is_named_with_the_nearest_that_can() -> None:
    with pytest.raises(
        UnsupportedError, match=r"num_attention_heads is 40, which 16 ranks do not divide"
    ) as caught:
        _shard("llama-4-scout-17b-16e-instruct", tp=16)
    assert caught.value.fix == "use --tp 8"
    _shard("meta-llama-3.1-70b", tp=32)
    # One rank that is the whole model is no rehearsal.
    with pytest.raises(UnsupportedError) as caught:
        _shard("falcon-7b", tp=2)
    assert caught.value.fix == "plan it with farspan plan, which needs no shard"


def test_tables_of_words_are_whole_on_a_rank_and_shorter_in_its_shard() -> None:
    """Layers that send a word to its experts by a table have it whole on every rank, and a shard has fewer words."""
    shard = _shard("deepseek-v4-flash", tp=8)
    missing = 3 * (129_280 - shard.spec.vocab_size) * 6 * 8
    assert routing_tables(shard.whole) - routing_tables(shard.spec) == missing
    assert any("tables that send a word to its experts" in sentence for sentence in shard.differences)


def test_blocks_of_scales_are_whole_or_refused() -> None:
    with pytest.raises(UnsupportedError, match="expert width is 192, no multiple of the 128") as caught:
        _shard("minimax-m2.5", tp=8)
    assert caught.value.fix == "use --tp 4"
    whole_experts = _shard("minimax-m2.5", tp=8, ep=8)
    assert whole_experts.spec.layers[0].moe is not None
    assert whole_experts.spec.layers[0].moe.num_experts == 32


def test_experts_are_shared_out_whole() -> None:
    shard = _shard("qwen3-235b-a22b", tp=8, ep=8)
    whole, rank = shard.whole.layers[0].moe, shard.spec.layers[0].moe
    assert whole is not None
    assert rank is not None
    assert (rank.num_experts, rank.intermediate_size, rank.top_k) == (16, whole.intermediate_size, 1)
    with pytest.raises(InputError, match="cannot be shared out over 3 of 8"):
        Division(8, 3)
    with pytest.raises(UnsupportedError, match="shared experts"):
        _shard("deepseek-v3", tp=8, ep=8)


def test_a_stage_has_its_own_layers() -> None:
    shard = _shard("deepseek-v3", tp=8, layers=range(16))
    assert [layer.moe is None for layer in shard.spec.layers] == [True] * 3 + [False] * 13
    assert any("pipeline stage" in sentence for sentence in shard.differences)
    later = _shard("llama-4-scout-17b-16e-instruct", tp=8, layers=range(16, 32))
    assert [layer.rope for layer in later.spec.layers] == [i % 4 != 3 for i in range(16)]
    with pytest.raises(UnsupportedError, match="would not be what it is in the whole model"):
        _shard("llama-4-scout-17b-16e-instruct", tp=8, layers=range(15, 31))


def _small() -> RankShard:
    config = {
        **CONFIGS["llama-4-scout-17b-16e-instruct"]["text_config"],
        "architectures": ["Llama4ForCausalLM"], "hidden_size": 64, "head_dim": 16, "num_hidden_layers": 4,
        "intermediate_size": 128, "intermediate_size_mlp": 128, "vocab_size": 1000, "num_local_experts": 2,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    return shard_config(config, "small", Division(8))


def test_the_folder_is_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    shard = _small()
    folder = tmp_path / "shard"
    size = write_shard(shard, folder, weights=True)
    assert size == sum(file.stat().st_size for file in folder.iterdir())
    again = load_model(str(folder), allow_network=False)
    assert (again.layers, again.weights) == (shard.spec.layers, shard.spec.weights)
    assert write_shard(shard, folder) < size
    assert not (folder / WEIGHTS_FILE).exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="holds no shard"):
        write_shard(shard, tmp_path / "other")


def test_its_tokenizer_has_a_word_an_id(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    write_shard(_small(), tmp_path / "shard")
    tokenizer = Tokenizer.from_file(str(tmp_path / "shard" / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 128
    assert tokenizer.decode([5, 17, 127], skip_special_tokens=False) == "w5 w17 w127"
    assert tokenizer.encode("w5 w17").ids == [5, 17]


def test_dummy_weights_have_the_shapes_the_plan_counts(tmp_path: Path) -> None:
    from safetensors import safe_open

    shard = _small()
    write_dummy_weights(shard, tmp_path)
    with safe_open(tmp_path / WEIGHTS_FILE, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        norm = file.get_tensor("model.norm.weight")
        values = file.get_tensor("model.layers.0.self_attn.q_proj.weight").float()
    assert shapes == {tensor.name: tensor.shape for tensor in list_tensors(shard)}
    assert bool((norm == 1).all())
    assert 0.01 < float(values.std()) < 0.03
    assert 2 * sum(prod(shape) for shape in shapes.values()) == checkpoint_bytes(shard.spec)
    header = json.loads((tmp_path / WEIGHTS_FILE).read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert header["model.norm.weight"]["dtype"] == "BF16"


def test_no_weights_are_made_up_for_families_without_a_list(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no dummy weights are written for a quantized Gpt"):
        write_dummy_weights(_shard("gpt-oss-120b", tp=8), tmp_path)


def test_a_multimodal_form_is_kept_for_engines_that_go_by_its_name() -> None:
    name = "llama-4-scout-17b-16e-instruct"
    shard = shard_config(CONFIGS[name], name, Division(8), form=ConfigForm(keeps_wrapper=True))
    assert shard.config["architectures"] == ["Llama4ForConditionalGeneration"]
    assert shard.config["text_config"]["num_attention_heads"] == 5
    assert shard.spec.layers == _shard(name, tp=8).spec.layers
    plan = get_engine("sglang").outline(
        PlanRequest(shard.spec, find_gpu("H200"), 1, 1, 1_000_000, engine_version="0.5.16")
    )
    assert plan.pools["window"] < plan.pools["full"]
