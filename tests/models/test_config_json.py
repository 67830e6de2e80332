"""Hostile config.json files are refused in one line, soon, or planned."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.cli.main import group
from farspan.errors import FarspanError, InputError
from farspan.models import catalog
from farspan.models.config import load_model, spec_from_config
from farspan.models.config_json import MAX_FILE_BYTES

CONFIGS = [
    catalog.find(name).config()  # type: ignore[union-attr]
    for name in ("llama-4-scout", "llama-3.1-8b", "gpt-oss-120b", "deepseek-v3.2")
    if catalog.find(name) is not None
]
VALUES: list[Any] = [
    None, True, 0, -1, 1, 7, 2**31, 2**63, 10**30, 10**400, 1e308, float("nan"), float("inf"), -0.5, "", "8",
    [], [0], [None], [-1] * 3, {}, {"a": 1}, [[]], "\x1b[31m", 1e-300,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        inner = [place for key in value for place in places(value[key], (*path, key))]
        return [(*path, key) for key in value] + inner
    return []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested too deeply"),
        (b'{"model_type": "llama", "x": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"\x00", "not JSON"),
        (b"5", "not a JSON object"),
        (b" " * (MAX_FILE_BYTES + 1), "larger than 16 MiB"),
        (b'{"x": [' + b"0," * 300_000 + b"0]}", "more than 100,000 values"),
        (b'{"hidden_size": 1e999}', "hidden_size is inf"),
        (b'{"text_config": {"num_hidden_layers": 10000000}}', "text_config.num_hidden_layers is 10000000, above"),
        (b'{"num_hidden_layers": [1000000000000, 1000000000000]}', "num_hidden_layers is 1000000000000, above"),
        (b'{"num_hidden_layers": [1000000000000.0]}', "num_hidden_layers is 1000000000000.0, above"),
        (b'{"model_type": "\\ud800"}', "model_type' is text that is no Unicode"),
        (b'{"hidden_size": 100000000000000000000}', "a number of 67 bits"),
    ],
)  # fmt: skip
def test_files_that_are_refused_before_they_are_read_further(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    started = time.monotonic()
    with pytest.raises(InputError, match=said) as refused:
        load_model(str(file))
    assert time.monotonic() - started < 5
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_model(str(tmp_path / "config.json"))
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load_model(str(tmp_path))


@settings(max_examples=150)
@given(data=st.data())
def test_any_value_anywhere_is_planned_or_refused_within_a_second(data: st.DataObject) -> None:
    config = copy.deepcopy(data.draw(st.sampled_from(CONFIGS)))
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from(places(config)))
        target = config
        for key in path:
            target = target.get(key) if isinstance(target, dict) else None
        if isinstance(target, dict):
            target[last] = data.draw(st.sampled_from(VALUES))
    started = time.monotonic()
    said = ""
    try:
        spec_from_config(config, "hostile")
    except FarspanError as error:
        said = str(error)
    assert "\n" not in said
    assert time.monotonic() - started < 5  # a second, on a machine that does other things too


@pytest.mark.parametrize("engine", ["vllm", "sglang", "builtin"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", 65_536),
        ("num_hidden_layers", 1000),
        ("num_key_value_heads", 10**12),
        ("max_position_embeddings", 10**12),
    ],
)
def test_plan_ends_in_one_line_whatever_the_sizes(tmp_path: Path, engine: str, name: str, value: int) -> None:
    config = copy.deepcopy(CONFIGS[1])
    config[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = ["plan", str(tmp_path), "--gpus", "8xH200", "--context", "1M", "--engine", engine, "--offline"]
    command += ["--find", "context"] if name == "num_attention_heads" else []
    started = time.monotonic()
    result = CliRunner().invoke(group, command, standalone_mode=False)
    assert time.monotonic() - started < 10
    assert result.exception is None or isinstance(result.exception, FarspanError | SystemExit), (
        result.exception
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": 10**12}, "PiB of weights, beyond any|TiB of weights, beyond any"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": -4}}, "factor is -4"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.0}}, "factor is 0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 1e30}}, "factor is 1e\\+30"),
        ({"partial_rotary_factor": -1.0}, "partial_rotary_factor is -1"),
    ],
)
def test_sizes_that_no_model_has_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        spec_from_config({**CONFIGS[1], **change}, "hostile")
