"""What stands beside a config.json, and contexts longer than the model was made for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farspan.errors import InputError, UnsupportedError
from farspan.models import catalog
from farspan.models.config import load_model
from farspan.models.config_json import MAX_FILE_BYTES
from farspan.models.hub_cache import is_complete
from farspan.models.spec import KvDtype, parse_kv_dtype
from farspan.models.weights import checkpoint_bytes, rank_weight_bytes


def _config(name: str = "qwen3-8b") -> dict[str, Any]:
    entry = catalog.find(name)
    assert entry is not None
    return entry.config()


def _folder(folder: Path, config: dict[str, Any], **others: Any) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in others.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


def test_a_quantization_beside_the_config_is_read(tmp_path: Path) -> None:
    quantization = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    spec = load_model(_folder(tmp_path, _config(), hf_quant_config={"quantization": quantization}))
    assert spec.kv_fp8
    plain = rank_weight_bytes(load_model("qwen3-8b")).total
    embeddings = 2 * spec.vocab_size * spec.hidden_size * 2
    assert rank_weight_bytes(spec).total == pytest.approx((plain - embeddings) / 2 + embeddings, rel=1e-3)


def _index(total: int) -> dict[str, Any]:
    return {"model.safetensors.index": {"metadata": {"total_size": total}, "weight_map": {}}}


def test_assumed_layers_weigh_what_the_index_says(tmp_path: Path) -> None:
    config = {**_config(), "architectures": ["TeleChat2ForCausalLM"]}
    total = 9_000_000_000
    spec = load_model(_folder(tmp_path, config, **_index(total)))
    assert rank_weight_bytes(spec).total == pytest.approx(total, rel=1e-6)
    assert rank_weight_bytes(spec, 2).total == pytest.approx(total / 2, rel=1e-6)
    assert any("checkpoint's index says" in note for note in spec.notes)


def test_known_layers_stay_and_a_difference_is_said(tmp_path: Path) -> None:
    own = checkpoint_bytes(load_model("qwen3-8b"))
    spec = load_model(_folder(tmp_path, _config(), **_index(own)))
    assert spec.notes == ()
    spec = load_model(_folder(tmp_path, _config(), **_index(own * 2)))
    assert checkpoint_bytes(spec) == own
    assert "index says" in spec.notes[0]


def test_a_name_that_claims_a_format_the_config_lacks_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "Some-Model-NVFP4"
    folder.mkdir()
    assert "the name says NVFP4" in load_model(_folder(folder, _config())).notes[0]


def test_gguf_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"GGUF.*--weights int4"):
        load_model("some/model-Q4_K_M.gguf")


def test_rope_scaling_makes_a_model_reach_further() -> None:
    spec = load_model("qwen3-8b", rope_scaling="YaRN:4")
    base = load_model("qwen3-8b")
    assert spec.max_position_embeddings == 4 * base.max_position_embeddings
    assert spec.ropes[0].positions == spec.max_position_embeddings
    override = json.loads(spec.config_overrides)
    assert override["rope_scaling"]["rope_type"] == "yarn"
    assert override["rope_scaling"]["original_max_position_embeddings"] == base.max_position_embeddings
    # The engine's own flag says the same.
    given = load_model("qwen3-8b", override=spec.config_overrides)
    assert given.max_position_embeddings == spec.max_position_embeddings
    assert given.config_overrides == ""


def test_an_override_reaches_into_the_text_config() -> None:
    override = '{"text_config": {"max_position_embeddings": 4096}}'
    assert load_model("qwen3.5-27b", override=override).max_position_embeddings == 4096


@pytest.mark.parametrize("text", ["yarn", "yarn:1", "ntk:4", "yarn:x", "yarn:1.2.3"])
def test_a_scaling_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--rope-scaling"):
        load_model("qwen3-8b", rope_scaling=text)


def test_an_override_that_is_no_object_is_refused() -> None:
    for text in ("[1]", "{", "4"):
        with pytest.raises(InputError, match="config override"):
            load_model("qwen3-8b", override=text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("bf16", KvDtype.BFLOAT16),
        ("BFloat16", KvDtype.BFLOAT16),
        ("FP16", KvDtype.FLOAT16),
        ("e4m3", KvDtype.FP8_E4M3),
        ("FP8-E5M2", KvDtype.FP8_E5M2),
        ("Auto", KvDtype.AUTO),
    ],
)
def test_kv_types_as_people_write_them(text: str, kind: KvDtype) -> None:
    assert parse_kv_dtype(text) is kind


def test_a_kv_type_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="choose one of auto, bfloat16"):
        parse_kv_dtype("int3")


@pytest.mark.parametrize(
    ("model", "gpus", "tp"), [("qwen3-8b", 8, 8), ("qwen3-8b", 6, 4), ("gpt-oss-20b", 3, 2)]
)
def test_the_largest_tp_that_the_heads_allow(model: str, gpus: int, tp: int) -> None:
    assert load_model(model).largest_tp(gpus) == tp


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"5",
        b"[" * 100_000,
        b'{"metadata": []}',
        b'{"metadata": {"total_size": NaN}}',
        b'{"metadata": {"total_size": true}}',
        b'{"metadata": {"total_size": ' + b"9" * 5000 + b"}}",
        b'{"weight_map": {"a": [1]}}',
        b'{"weight_map": {"a": "\\u0000"}}',
        b'{"weight_map": {"a": "' + b"x" * 5000 + b'"}}',
        b"\xff",
    ],
)
def test_an_index_that_says_nothing_is_planned_without_and_is_not_complete(
    tmp_path: Path, index: bytes
) -> None:
    folder = _folder(tmp_path, _config())
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    assert rank_weight_bytes(load_model(folder)).total == rank_weight_bytes(load_model("qwen3-8b")).total
    assert not is_complete(tmp_path)


@pytest.mark.parametrize("total", ["1e999", "1e30", "9" * 40])
def test_an_index_of_more_than_any_checkpoint_is_refused(tmp_path: Path, total: str) -> None:
    folder = _folder(tmp_path, _config())
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"metadata": {{"total_size": {total}}}}}')
    with pytest.raises(InputError, match="total_size is more than 1 PiB"):
        load_model(folder)
    assert not is_complete(tmp_path)


def test_files_beside_the_config_are_read_within_bounds(tmp_path: Path) -> None:
    folder = _folder(tmp_path, _config())
    (tmp_path / "hf_quant_config.json").write_bytes(b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(InputError, match="larger than 16 MiB"):
        load_model(folder)
