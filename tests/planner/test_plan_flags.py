from __future__ import annotations

import time

import pytest

from farspan.errors import InputError
from farspan.planner.engine_flags import flag_words, parse_engine_flags
from farspan.planner.versions import resolve_version, version_key
from farspan.verbs.plan import plan


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tp", "9" * 5000], "--tp has a number of more than 300 digits"),
        (["--x", '{"a": ' + "9" * 301 + "}"], "--x has a number of more than 300 digits"),
        (["--x", '{"a":' * 3000 + "1" + "}" * 3000], "--x is nested more than 64 deep"),
        (["--x=" + "[" * 3000], "--x is nested more than 64 deep"),
        (["X=" + "[" * 65], "X is nested more than 64 deep"),
    ],
)
def test_a_value_beyond_all_reading_is_refused_by_its_name(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        parse_engine_flags(words)
    assert len(str(refused.value)) < 200


def test_brackets_and_digits_in_text_are_not_looked_at() -> None:
    template = '{"a": "' + "[{" * 500 + "1" * 400 + '"}'
    assert parse_engine_flags(["--x", template]) == {"--x": template}
    started = time.monotonic()
    parse_engine_flags(["--x", '"\\"' * 500_000])
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("engine", "words", "said"),
    [
        ("sglang", ["--max-running-requests", "-1"], "lets no request run"),
        ("sglang", ["--context-length", "0"], "--context-length 0 takes no token"),
        ("sglang", ["--cuda-graph-bs-decode", "-1", "4"], "not a list of sizes"),
        ("sglang", ["--cuda-graph-max-bs-decode", "10000000000"], "sizes up to 10,000,000,000"),
        ("sglang", ["--cuda-graph-max-bs-prefill", "10000000000"], "sizes up to 10,000,000,000"),
        ("vllm", ["--cudagraph-capture-sizes", "nan"], "'nan', which is no batch size"),
        (
            "vllm",
            ["--compilation-config", '{"cudagraph_capture_sizes": [null]}'],
            "'None', which is no batch",
        ),
        ("vllm", ["--kv-offloading-size", "1e308"], "'1e308' is not a number"),
        ("vllm", ["--gpu-memory-utilization", "nan"], "'nan' is not a number"),
        ("vllm", ["--hf-overrides", '{"rope_scaling": {"rope_type": "yarn", "factor": -4}}'], "factor is -4"),
        (
            "vllm",
            ["--hf-overrides", '{"num_hidden_layers": [1000000000000]}'],
            "num_hidden_layers is 1000000",
        ),
    ],
)
def test_flags_of_hostile_values_are_refused_by_name(engine: str, words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan("llama-3.1-8b", gpus="8xH200", engine=engine, context="10k", engine_flags=words, offline=True)
