"""Flags that change memory in ways not mirrored: which values ask for nothing, and which flags do nothing alone."""

from __future__ import annotations

import pytest

import farspan
from farspan.errors import UnsupportedError

SCOUT = {"gpus": "8xH200", "context": "2M", "offline": True}


def plan(engine: str, *flags: str) -> tuple[str, ...]:
    (one,) = farspan.plan("llama-4-scout", engine=engine, engine_flags=flags, **SCOUT).plans  # type: ignore[arg-type]
    return one.notes


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        (
            "sglang",
            ("--offload-group-size", "4", "--offload-num-in-group", "2", "--offload-prefetch-step", "1"),
        ),
        ("sglang", ("--offload-group-size", "1")),
        ("vllm", ("--offload-group-size", "1")),
        ("vllm", ("--offload-group-size=8", "--cpu-offload-gb", "4")),
    ],
)
def test_offload_by_groups_is_refused_by_name_with_what_is_planned_instead(
    engine: str, flags: tuple[str, ...]
) -> None:
    with pytest.raises(
        UnsupportedError, match=r"^--offload-group-size .*with --cpu-offload-gb GIB, which is planned"
    ):
        plan(engine, *flags)


def test_sglangs_refusal_says_which_models_it_is_for() -> None:
    with pytest.raises(UnsupportedError, match="DeepSeek V2's code, and ends with a TypeError for others"):
        plan("sglang", "--offload-group-size", "4")


@pytest.mark.parametrize(
    ("engine", "flag", "value"),
    [
        ("sglang", "--ep-num-redundant-experts", "1"),
        ("sglang", "--moe-dense-tp-size", "1"),
        ("sglang", "--kt-num-gpu-experts", "1"),
        ("vllm", "--mm-ipc-gpu-memory-gb", "1"),
    ],
)
def test_one_of_a_thing_is_not_none_of_it(engine: str, flag: str, value: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{flag} "):
        plan(engine, flag, value)


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        ("sglang", ("--offload-group-size", "-1")),
        ("sglang", ("--attn-cp-size", "1")),
        ("sglang", ("--moe-dp-size", "1")),
        ("vllm", ("--offload-group-size", "0")),
        ("vllm", ("--ubatch-size", "1")),
    ],
)
def test_a_value_that_asks_for_nothing_is_planned(engine: str, flags: tuple[str, ...]) -> None:
    assert not any("does nothing" in note for note in plan(engine, *flags))


def test_flags_that_do_nothing_alone_are_said_to() -> None:
    assert "--offload-mode does nothing without --offload-group-size." in plan(
        "sglang", "--offload-mode", "cpu"
    )
    both = plan("vllm", "--offload-num-in-group", "2", "--offload-prefetch-step", "2")
    assert (
        "--offload-num-in-group and --offload-prefetch-step do nothing without --offload-group-size." in both
    )
