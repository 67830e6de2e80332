"""A checkpoint may be anybody's: what is wrong with one is said in one line, and nothing outside it is touched."""

import json
import signal
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.builtin.model import LlamaModel
from farspan.builtin.model_config import read_config
from farspan.builtin.server_tokenizer import ChatTokenizer
from farspan.errors import CheckpointError, InputError
from farspan.models import chat_template
from farspan.models.chat_template import ChatTemplate, read_chat_template

MESSAGES = [{"role": "user", "content": "x"}]
VALUES: list[Any] = [
    None, True, 0, -1, 1, 3, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), -0.5, "", "x",
    [], [0], ["x"], [-1] * 3, ["full_attention"], {}, {"rope_type": "llama3"}, {"factor": 0}, [[]],
]  # fmt: skip


def copy_with(probe_folder: Path, folder: Path, **files: Any) -> Path:
    """Return a checkpoint like the recall checkpoint with some files replaced; names have __ for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in probe_folder.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


@settings(max_examples=200)
@given(data=st.data())
def test_any_value_in_a_config_is_read_or_refused_in_one_line(
    probe_folder: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    config = json.loads((probe_folder / "config.json").read_text())
    config[data.draw(st.sampled_from([*config, "rope_scaling", "layer_types", "moe_layers"]))] = data.draw(
        st.sampled_from(VALUES)
    )
    folder = copy_with(probe_folder, tmp_path_factory.mktemp("hostile"), config__json=config)
    said, started = "", time.monotonic()
    try:
        read_config(folder)
    except CheckpointError as error:
        said = str(error)
    assert "\n" not in said
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not JSON"),
        ({"num_hidden_layers": 10**9}, "above 1000"),
        ({"num_attention_heads": 0}, "0 heads"),
        ({"num_key_value_heads": -1}, "-1 KV heads"),
        ({"attention_chunk_size": -5}, "attention_chunk_size, -5"),
        ({"eos_token_id": ["x"]}, "lacks or garbles"),
        ({"layer_types": ["full_attention"]}, "lacks or garbles"),
        ({"hidden_size": float("inf")}, "beyond any model's"),
        ({"head_dim": 7}, "must be even"),
    ],
)
def test_hostile_configs(probe_folder: Path, tmp_path: Path, content: Any, said: str) -> None:
    if isinstance(content, dict):
        content = {**json.loads((probe_folder / "config.json").read_text()), **content}
    folder = copy_with(probe_folder, tmp_path / "c", config__json=content)
    (folder / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=said):
        read_config(folder)


@pytest.mark.parametrize(
    "weight_map",
    [
        5,
        [1],
        {"a": 5},
        {"a": "../../etc/passwd"},
        {"a": "/etc/x.safetensors"},
        {"a": "b/../../x.safetensors"},
    ],
)
def test_an_index_names_only_files_beside_it(probe_folder: Path, tmp_path: Path, weight_map: Any) -> None:
    index = {"weight_map": weight_map}
    folder = copy_with(probe_folder, tmp_path / "c", model__safetensors__index__json=index)
    with pytest.raises(CheckpointError, match=r"names|weight_map"):
        LlamaModel(folder)


@pytest.mark.parametrize(
    "content",
    [b"", struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b"{" * 9],
)
def test_broken_safetensors(probe_folder: Path, tmp_path: Path, content: bytes) -> None:
    folder = copy_with(probe_folder, tmp_path / "c", model__safetensors=content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        LlamaModel(folder)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"model": 5}', b"\x00\xff"])
def test_broken_tokenizers(probe_folder: Path, tmp_path: Path, content: bytes) -> None:
    folder = copy_with(probe_folder, tmp_path / "c", tokenizer__json=content)
    with pytest.raises(CheckpointError, match="cannot be read") as refused:
        ChatTokenizer(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content + 5 }}",
        "{{ 1/0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ strftime_now(5) }}",
        "{{ 'a' * (2**62) }}",
        "{% if %}",
        "{{ (10**400)|float }}",
        "{{ ['a']|sum }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('a\nb') }}",
        "{{ ''.__class__.__mro__ }}",
    ],
)
def test_a_template_that_fails_is_one_line(tmp_path: Path, source: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": source}))
    template = read_chat_template(tmp_path)
    assert template is not None
    with pytest.raises(InputError, match="the chat template cannot be rendered") as refused:
        template.render(MESSAGES)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "config",
    [
        {"chat_template": 5},
        {"chat_template": [5, {"name": "x"}, {"template": "y"}]},
        {"bos_token": {"no": "content"}, "chat_template": "{{ bos_token }}x"},
        {"messages_token": "x", "messages": 5, "chat_template": "x"},
    ],
)
def test_odd_template_files_are_read(tmp_path: Path, config: Any) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    template = read_chat_template(tmp_path)
    assert template is None or template.render(MESSAGES) == "x"


@pytest.mark.parametrize("content", [b"\xff\xff", b"[" * 100_000, b"{"])
def test_broken_template_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read|is not JSON"):
        read_chat_template(tmp_path)


def test_a_template_without_end_is_ended_where_prompts_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_ONE_MESSAGE_S", 0.3)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(InputError, match=r"took longer than 0\.3 s of processor time"):
        _ = ChatTemplate(loop, {}).around
    assert signal.getsignal(signal.SIGPROF) is before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_a_template_is_rendered_in_any_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        around = pool.submit(lambda: ChatTemplate("<{{ messages[0].content }}>", {}).around).result()
    assert around == ("<", ">")
