from __future__ import annotations

import pytest

from farspan.errors import InputError
from farspan.planner.engine_flags import flag_words, parse_engine_flags
from farspan.planner.versions import resolve_version, version_key


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ([], {}),
        (["--gpu-memory-utilization", "0.85"], {"--gpu-memory-utilization": "0.85"}),
        (["--gpu_memory_utilization=0.85"], {"--gpu-memory-utilization": "0.85"}),
        (["--enforce-eager", "--max-num-seqs", "8"], {"--enforce-eager": None, "--max-num-seqs": "8"}),
        (["-tp", "8"], {"--tensor-parallel-size": "8"}),
        (["--max-model-len", "-1"], {"--max-model-len": "-1"}),
        (
            ["--cuda-graph-bs", "1", "2", "4", "--page-size", "1"],
            {"--cuda-graph-bs": "1 2 4", "--page-size": "1"},
        ),
        (["--max-num-seqs", "8", "--max-num-seqs", "16"], {"--max-num-seqs": "16"}),
        (["--override={}"], {"--override": "{}"}),
        (
            ["VLLM_X=0", "--enforce-eager", "VLLM_Y=a b"],
            {"VLLM_X": "0", "--enforce-eager": None, "VLLM_Y": "a b"},
        ),
        (["--limit-mm-per-prompt", "image=0"], {"--limit-mm-per-prompt": "image=0"}),
        (["--own", "- item"], {"--own": "- item"}),
        (["--own", "---\nkind", "--x"], {"--own": "---\nkind", "--x": None}),
        (["--own=--x"], {"--own": "--x"}),
        (["--own", "-.5", "--own=- a=b"], {"--own": "- a=b"}),
    ],
)
def test_engine_flags(words: list[str], flags: dict[str, str | None]) -> None:
    assert parse_engine_flags(words) == flags


def test_a_word_without_a_flag_is_refused() -> None:
    with pytest.raises(InputError, match=r"'0\.85' belongs to no engine flag"):
        parse_engine_flags(["0.85"])
    with pytest.raises(InputError, match="belongs to no engine flag"):
        parse_engine_flags(["--a=1", "2"])


@pytest.mark.parametrize("value", ["---\nkind", "- item", "--", "-", "--\tx", "-x=- y", "-\u2028x"])
def test_a_value_behind_its_flag_stays_there(value: str) -> None:
    word = f"--own={value}"
    ((name, read),) = parse_engine_flags([word]).items()
    assert flag_words(name, read) == (word,)
    assert parse_engine_flags([word]) == {"--own": value}


def test_the_words_for_a_flag_read_back_as_the_same_flag() -> None:
    for value in (
        None,
        "",
        "a b",
        "- item",
        "---\nkind",
        "-",
        "--",
        "-1",
        "-x",
        "--x",
        "--x=y",
        "-x=- y",
        "=",
        "a=b",
    ):
        assert parse_engine_flags(flag_words("--own", value)) == {"--own": value}


def test_versions_sort_as_released() -> None:
    order = ["0.4.9", "0.5.6", "0.5.6.post2", "0.5.7", "0.5.16", "0.12.0", "1.0"]
    assert sorted(order, key=version_key) == order
    assert version_key("v0.12.0") == version_key("0.12.0")
    for text in ("", "newest", "0", "0.12.0rc1"):
        with pytest.raises(InputError, match="not an engine version"):
            version_key(text)


def test_an_unknown_version_needs_consent() -> None:
    known = ("0.12.0", "0.24.0", "0.33.0")
    assert resolve_version("vllm", "", known, accept_nearest=False) == ("0.33.0", "")
    assert resolve_version("vllm", "0.24.0", known, accept_nearest=False) == ("0.24.0", "")
    with pytest.raises(
        InputError,
        match=r"knows 0\.12\.0, 0\.24\.0, 0\.33\.0.*--accept-nearest-version to plan with 0\.24\.0",
    ):
        resolve_version("vllm", "0.25.1", known, accept_nearest=False)
    version, warning = resolve_version("vllm", "0.25.1", known, accept_nearest=True)
    assert version == "0.24.0"
    assert "0.25.1 is not known" in warning
    assert resolve_version("vllm", "0.1.0", known, accept_nearest=True).version == "0.12.0"


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("-dcp", "--decode-context-parallel-size"),
        ("-ep", "--enable-expert-parallel"),
        ("-q", "--quantization"),
        ("-sc", "--speculative-config"),
        ("-cc", "--compilation-config"),
    ],
)
def test_short_names_are_written_out(short: str, name: str) -> None:
    assert parse_engine_flags([short, "1"]) == {name: "1"}
    assert parse_engine_flags([f"{short}=1"]) == {name: "1"}
