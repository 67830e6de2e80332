"""Small things a first hour stumbles over: sizes, suffixes, plurals, logs of servers that have gone."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import farspan
from farspan.cli.output import wrap_command
from farspan.errors import InputError
from farspan.launch.server_records import StateFolder
from farspan.planner.engine_flags import parse_engine_flags
from farspan.sizes import parse_tokens

DEMO = Path(__file__).resolve().parents[2] / "docs" / "runs" / "demo"


@pytest.mark.parametrize(("text", "meant"), [("1e6", "1M"), ("2E5", "200k"), ("2e+06", "2M")])
def test_a_power_of_ten_is_refused_with_the_size_it_means(text: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"write it as {meant}"):
        parse_tokens(text)


def test_a_size_without_its_option_is_understood() -> None:
    with pytest.raises(InputError, match="did you mean --context 10M"):
        parse_engine_flags(("10M",))


@pytest.mark.parametrize("name", ["a.pdf", "a.PNG"])
def test_a_report_is_not_written_as_a_folder_of_that_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="a report is not written as"):
        farspan.report(DEMO, output=tmp_path / name)
    assert not (tmp_path / name).exists()


def test_charts_go_into_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, one file a chart"):
        farspan.report(DEMO, charts=tmp_path / "x.svg")


def test_the_log_of_a_server_that_has_gone_is_found_by_name(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    state.log_path("scout").write_text("its last words\n")
    assert b"".join(farspan.logs("scout", state=state).pieces()) == b"its last words\n"
    with pytest.raises(InputError):
        farspan.logs("other", state=state)
    with pytest.raises(InputError, match="is not a server name"):
        farspan.logs("../scout", state=state)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_command_wraps_and_pastes_as_it_was(width: int) -> None:
    words = [
        "docker",
        "run",
        "--name",
        "x",
        "--env",
        "A=b c",
        "--gpus",
        '"device=0,1"',
        "--entrypoint",
        "vllm",
        "i:v1",
        "serve",
    ]
    wrapped = wrap_command(shlex.join(words), width)
    assert shlex.split(wrapped.replace("\\\n", "")) == words
    assert max(map(len, wrapped.splitlines())) <= max(width, 36)


def test_an_answer_longer_than_the_context_is_refused() -> None:
    how = {"gpus": "8xH200", "engine": "vllm", "offline": True}
    with pytest.raises(InputError, match="leaves no room for a prompt"):
        farspan.plan("llama-4-scout", context="1M", output_tokens="2M", **how)
    assert farspan.plan("llama-4-scout", context=128, **how).fits
