"""What real servers did with Llama 4 Scout on 8x H200, asked of `farspan plan`: starts, fits, exit code.

Figures to the token and the decimal are checked by each engine's own tests; here, whether the answer holds.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from farspan.cli.plan import command

SCOUT = ["llama-4-scout", "--gpus", "8xH200", "--tp", "8", "--json"]
FITS, DOES_NOT_FIT = 0, 3


def ask(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(command, [*SCOUT, *arguments])
    assert result.exit_code in (FITS, DOES_NOT_FIT), result.exception
    answer: dict[str, Any] = json.loads(result.stdout)
    return result.exit_code, answer


@pytest.mark.parametrize(
    ("context", "kv_dtype", "flags", "code", "ratio"),
    [
        ("5242880", "auto", ["--disable-hybrid-kv-cache-manager"], DOES_NOT_FIT, 0.75),
        ("5242880", "auto", [], FITS, 2.96),
        ("8388608", "auto", [], FITS, 1.86),
        ("10M", "auto", [], FITS, 1.56),
        ("10M", "fp8_e4m3", [], FITS, 3.12),
    ],
)
@pytest.mark.parametrize("available", [["--available-kv-gib", "89.714"], []], ids=["given", "predicted"])
def test_vllm_0_12_0(
    context: str, kv_dtype: str, flags: list[str], code: int, ratio: float, available: list[str]
) -> None:
    asked = ["--engine", "vllm", "--engine-version", "0.12.0", "--context", context, "--kv-dtype", kv_dtype]
    exit_code, answer = ask(*asked, *available, "--", *flags)
    assert exit_code == code
    assert answer["fits"] == (code == FITS)
    printed = [value for name, value in answer["printed"].items() if name.startswith("Maximum concurrency")]
    tolerance = 0.005 if available else 0.02 * ratio
    assert printed == pytest.approx([ratio], abs=tolerance)
    assert answer["available_kv_gib"] == pytest.approx(89.71, rel=0.02)


def test_vllm_runs_out_of_memory_warming_up_at_0_95() -> None:
    code, answer = ask(
        *("--engine", "vllm", "--engine-version", "0.12.0", "--context", "8388608"),
        *("--", "--gpu-memory-utilization", "0.95"),
    )
    assert code == DOES_NOT_FIT
    assert not answer["starts"]


def test_a_request_above_the_pool_waits_for_ever_on_vllm_0_12_0() -> None:
    _, answer = ask(
        *("--engine", "vllm", "--engine-version", "0.12.0", "--context", "5M"),
        *("--", "--disable-hybrid-kv-cache-manager"),
    )
    assert answer["starts"]
    assert not answer["fits"]
    assert any("for ever" in warning for warning in answer["warnings"])


@pytest.mark.parametrize(
    ("version", "context", "kv_dtype", "flags", "starts", "fits"),
    [
        ("0.5.6.post2", "2097152", "auto", "--mem-fraction-static 0.80 --disable-cuda-graph", True, True),
        ("0.5.6.post2", "2097152", "auto", "--mem-fraction-static 0.85", False, False),
        *(
            (
                "0.5.6.post2",
                "10000000",
                "fp8_e4m3",
                f"--mem-fraction-static {fraction} --disable-cuda-graph",
                False,
                False,
            )
            for fraction in ("0.80", "0.75", "0.70", "0.65")
        ),
        ("0.5.16", "10000000", "fp8_e4m3", "--mem-fraction-static 0.65 --disable-cuda-graph", False, False),
        (
            "0.5.16",
            "10000000",
            "fp8_e4m3",
            "--mem-fraction-static 0.65 --disable-cuda-graph --max-running-requests 8",
            True,
            False,
        ),
        (
            "0.5.16",
            "10000000",
            "fp8_e4m3",
            "--mem-fraction-static 0.85 --disable-cuda-graph --max-running-requests 8 "
            "--swa-full-tokens-ratio 0.05",
            True,
            True,
        ),
    ],
)
def test_sglang(version: str, context: str, kv_dtype: str, flags: str, *, starts: bool, fits: bool) -> None:
    asked = ["--engine", "sglang", "--engine-version", version, "--context", context, "--kv-dtype", kv_dtype]
    code, answer = ask(*asked, "--as-given", "--", *flags.split())
    assert (answer["starts"], answer["fits"]) == (starts, fits)
    assert code == (FITS if fits else DOES_NOT_FIT)


def test_ten_million_fits_in_bf16_on_vllm_and_with_the_right_flags_on_sglang() -> None:
    code, answer = ask("--context", "10M")
    assert code == FITS
    assert answer["engines"]["vllm"]["fits"]
    assert answer["kv_dtype"] == "auto"
    assert answer["engines"]["sglang"]["fits"]
    flags = answer["engines"]["sglang"]["flags"]
    assert flags[flags.index("--max-running-requests") + 1] == "8"


@pytest.mark.parametrize(
    ("context", "seconds"),
    [("2845646", 334.91), ("4908091", 957.07), ("6378187", 1542.0)],
)
def test_the_time_of_cold_runs_is_within_fifteen_percent(context: str, seconds: float) -> None:
    tokens = int(context) + 200
    _, answer = ask("--engine", "vllm", "--engine-version", "0.12.0", "--context", str(tokens))
    whole = answer["ttft_s"]["expected"] + 199 * answer["itl_s"]["expected"]
    assert whole == pytest.approx(seconds, rel=0.15)
    assert answer["ttft_s"]["floor"] < seconds
