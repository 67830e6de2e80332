"""GPUs named by their memory: the card that is meant, and what is said to be assumed."""

from __future__ import annotations

from pathlib import Path

import pytest

import farspan
from farspan.errors import InputError, NotFoundError
from farspan.hardware.catalog import find_gpu, gpus
from farspan.hardware.gpu import Origin
from farspan.hardware.node_spelling import parse_node


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("8x140GB", "H200", 8),
        ("8x 141 GB", "H200", 8),
        ("140gb:8", "H200", 8),
        ("140GBx8", "H200", 8),
        ("8*80G", "H100", 8),
        ("4x48GB", "L40S", 4),
        ("40GB", "A100-40GB", 1),
        ("8x139.8GiB", "H200", 8),
        ("8x180GB", "B200", 8),
    ],
)
def test_a_size_is_the_first_card_that_has_it(text: str, name: str, count: int) -> None:
    node = parse_node(text)
    assert (node.gpu.name, node.count) == (name, count)
    assert node.gpu.memory_bytes == find_gpu(name).memory_bytes
    assert f"{name}, {find_gpu(name).memory_bytes / 2**30:.1f} GiB" in node.gpu.assumed


@pytest.mark.parametrize(
    "text", ["8xH200-140GB", "8xH200 141GB", "4xL40S 48GB", "A100-40GB", "8xA100-80GB", "T4 16GB"]
)
def test_a_card_named_with_its_size_is_that_card_and_nothing_is_assumed(text: str) -> None:
    assert parse_node(text).gpu in gpus()
    assert not parse_node(text).gpu.assumed


def test_a_card_named_with_another_size_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        NotFoundError, match=r"H100 has 79.2 GiB .* not 96 GB; write H100 or H100-PCIe or H100-NVL"
    ):
        parse_node("8xH100-96GB")
    with pytest.raises(NotFoundError, match="for GPUs of 140 GB write 140GB"):
        parse_node("8x140")


def test_a_size_that_no_card_has_is_planned_with_it() -> None:
    stickered = parse_node("8x60GB").gpu
    assert stickered.memory_bytes == round(0.97 * 60 * 2**30)
    assert stickered.memory_origin is Origin.ASSUMED
    seen = parse_node("8x60GiB").gpu
    assert seen.memory_bytes == 60 * 2**30
    assert seen.memory_origin is Origin.GIVEN
    for gpu in (stickered, seen):
        assert "no known card has that memory, so speed and links are MI250X's" in gpu.assumed
    with pytest.raises(InputError, match="not a memory size"):
        parse_node("8x0GB")


def test_every_answer_says_what_was_assumed() -> None:
    asked = {"gpus": "8x140GB", "engine": "vllm", "offline": True}
    planned = farspan.plan("llama-4-scout", context="1M", **asked)
    named = farspan.plan("llama-4-scout", context="1M", **{**asked, "gpus": "8xH200"})
    note = parse_node("8x140GB").gpu.assumed
    assert planned.to_json()["notes"] == [note, *named.to_json()["notes"]]
    assert planned.plans[0].time == named.plans[0].time  # what was measured on an H200 counts for it
    assert planned.plans[0].flags == named.plans[0].flags
    served = farspan.serve("llama-4-scout", context="1M", dry_run=True, **asked).runtime.launch
    assert f"{note}." in served.warnings


@pytest.mark.parametrize("question", [["--context", "1M"], ["--contexts", "1M,2M"], ["--find", "context"]])
def test_every_plan_prints_what_was_assumed(question: list[str]) -> None:
    from click.testing import CliRunner

    from farspan.cli.plan import command

    words = ["llama-4-scout", "--gpus", "8x140GB", "--engine", "vllm", "--offline", *question]
    result = CliRunner().invoke(command, words)
    assert "note: assumed: a GPU of 140GB is an H200" in result.output


def test_a_log_held_against_a_plan_says_what_was_assumed_too() -> None:
    log = Path(__file__).parents[1] / "evidence" / "real" / "vllm-0.24.0-scout-shard.log"
    held = farspan.validate(str(log), "llama-4-scout", gpus="140GB")
    assert parse_node("140GB").gpu.assumed in held.notes
    assert not any(
        "assumed: a GPU" in note for note in farspan.validate(str(log), "llama-4-scout", gpus="H200").notes
    )
