"""Words of the command line in the wrong place, or two in one: what to write instead."""

from __future__ import annotations

import click
import pytest

from farspan.cli.failures import describe
from farspan.cli.main import group
from farspan.cli.options import parse_fraction, parse_fractions
from farspan.errors import InputError
from farspan.prompts.tasks import parse_task

PLAN = ("plan", "llama-4-scout", "--offline")
GPUS = ("--gpus", "8xH200")
SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"


def refusal(*words: str) -> str:
    with pytest.raises((InputError, click.UsageError)) as caught:
        group.main(list(words), prog_name="farspan", standalone_mode=False)
    failure = describe(caught.value)
    assert failure is not None
    return f"{failure.message}; {failure.fix}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((*PLAN, "8xH200", "--context", "2M"), "'8xH200' stands without its option; write --gpus 8xH200"),
        ((*PLAN, "H200:8"), "write --gpus H200:8"),
        ((*PLAN, *GPUS, "2M"), "write --context 2M"),
        ((*PLAN, *GPUS, "2M,5M"), "write --contexts 2M,5M"),
        ((*PLAN, *GPUS, "vLLM"), "write --engine vLLM"),
        ((*PLAN, *GPUS, "0.12.0"), "write --engine-version 0.12.0"),
        ((*PLAN, *GPUS, "0.85"), "'0.85' belongs to no engine flag"),
        (("serve", "llama-4-scout", "sglang", *GPUS), "write --engine sglang"),
        (
            (*PLAN, *GPUS, "--context", "2M,5M"),
            "'2M,5M' is several token counts; give one here; several go with --contexts",
        ),
        (
            (*PLAN, *GPUS, "--engine", "vllm,sglang"),
            "several engines: name one; farspan plan without --engine has all",
        ),
        ((*PLAN, *GPUS, "--engine", "vllm@0.12.0"), "write vllm --engine-version 0.12.0"),
        (
            (
                "plan",
                "https://huggingface.co/meta-llama/Llama-4-Scout-17B-16E-Instruct/tree/main",
                *GPUS,
                "--context",
                "2M",
            ),
            f"is the address of a model; write its hub id: {SCOUT}",
        ),
        (("bench", "s", "--contexts", "1k", "--duration", "5"), "write --time-limit"),
    ],
)
def test_a_word_in_the_wrong_place_is_told_where_it_goes(words: tuple[str, ...], expected: str) -> None:
    assert expected in refusal(*words)


def test_flags_behind_the_dashes_are_left_alone() -> None:
    words = [
        *PLAN,
        *GPUS,
        "--engine",
        "vllm",
        "--context",
        "2M",
        "--",
        "--max-num-seqs",
        "8",
        "VLLM_USE_V1=1",
    ]
    assert group.main(words, prog_name="farspan", standalone_mode=False) is None


@pytest.mark.parametrize(
    ("written", "task"),
    [
        ("summarize", "summarise"),
        ("NIAH", "needle"),
        ("variable_tracking", "variable-tracking"),
        ("Chain", "chain"),
    ],
)
def test_a_task_is_named_as_other_tools_do(written: str, task: str) -> None:
    assert parse_task(written) == task
    with pytest.raises(InputError, match="there is no task 'poem'; use one of summarise, needle"):
        parse_task("poem")


def test_a_depth_may_be_a_percentage() -> None:
    assert parse_fractions("10%, 0.5,90 %") == (0.1, 0.5, 0.9)
    assert parse_fraction("30%") == 0.3
    for wrong in ("50", "120%", "5%0", "x%"):
        with pytest.raises(InputError, match=r"write it as 0\.1,0\.9 or 10%,90%"):
            parse_fractions(wrong)
    with pytest.raises(InputError, match=r"'0.1,0.2' is not a fraction; write it as 0\.3 or 30%"):
        parse_fraction("0.1,0.2")
