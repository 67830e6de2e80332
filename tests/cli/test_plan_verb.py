"""`farspan plan` as users and scripts meet it: exit codes, JSON keys, first lines, bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from farspan.cli.plan import command
from farspan.errors import FarspanError, InputError

SCOUT = ["llama-4-scout", "--gpus", "8xH200", "--tp", "8"]
KEYS = {
    "fits",
    "reason",
    "weights_gib",
    "available_kv_gib",
    "capacity_tokens",
    "max_concurrency",
    "printed",
    "pools",
    "ledger",
    "flags",
    "warnings",
    "notes",
    "ttft_s",
}


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(command, list(arguments))
    if isinstance(result.exception, FarspanError):
        raise result.exception
    return result


def answer(*arguments: str) -> dict[str, Any]:
    result = invoke(*arguments) if "--json" in arguments else invoke(*arguments, "--json")
    assert result.exit_code in (0, 3), result.output
    value: dict[str, Any] = json.loads(result.stdout)
    assert value["fits"] or not value["fits_with_defaults"]
    assert (result.exit_code == 0) == value["fits"]
    return value


def test_the_command_others_script_against() -> None:
    arguments = [
        *SCOUT,
        *("--engine", "vllm", "--engine-version", "0.24.0", "--context", "10M", "--concurrency", "1"),
        *("--kv-dtype", "fp8_e4m3", "--available-kv-gib", "90.3", "--json", "--"),
        *("--gpu-memory-utilization", "0.85", "--max-num-batched-tokens", "16384"),
    ]
    result = invoke(*arguments)
    assert result.exit_code == 0
    value = json.loads(result.stdout)
    assert value.keys() >= KEYS
    assert value["engines"]["vllm"].keys() >= KEYS
    assert value["available_kv_gib"] == 90.3
    assert value["version"] == "0.24.0"
    assert value["ttft_s"].keys() >= {"floor", "expected", "basis"}
    assert all(
        line.keys() >= {"name", "bytes", "when", "grows_with", "formula", "source", "basis"}
        for line in value["ledger"]
    )


@pytest.mark.parametrize("engine", ["vllm", "sglang", "builtin"])
def test_every_engine_has_the_keys(engine: str) -> None:
    value = answer("llama-3.1-8b", "--gpus", "1xH100", "--engine", engine, "--context", "100k")
    assert value.keys() >= KEYS
    assert value["fits"]
    assert value["engines"][engine]["flags"] == value["flags"]


def test_side_by_side_when_no_engine_is_named() -> None:
    value = answer(*SCOUT, "--context", "10M")
    assert set(value["engines"]) == {"vllm", "sglang", "builtin"}
    assert value["engines"]["vllm"]["fits"]
    assert not value["engines"]["builtin"]["fits"]
    assert all(engine.keys() >= KEYS for engine in value["engines"].values())
    text = invoke(*SCOUT, "--context", "10M")
    assert text.exit_code == 0
    first = text.stdout.splitlines()[0]
    assert first.startswith("10M fits llama-4-scout-17b-16e-instruct on 8x H200, TP 8 with vllm")
    assert "builtin" not in first, "an engine that cannot plan it has a line of its own"
    assert "Not planned for builtin: " in text.stdout


def test_what_does_not_fit_exits_3_and_says_what_to_change() -> None:
    flags = ("--mem-fraction-static", "0.65", "--disable-cuda-graph")
    asked = (*SCOUT, "--engine", "sglang", "--context", "10M", "--kv-dtype", "fp8_e4m3")
    assert invoke(*asked, "--", *flags).exit_code == 0, "flags of the user keep no cure away"
    result = invoke(*asked, "--as-given", "--", *flags)
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[0].startswith("10M does not fit")
    assert any(line.startswith("It fits with --max-running-requests 8") for line in lines)
    assert any("What helps, cheapest first" in line for line in lines)


def test_environment_words_after_the_dashes_are_read() -> None:
    name = "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE"
    asked = [*SCOUT, "--engine", "vllm", "--engine-version", "0.12.0", "--context", "5Mi"]
    off = answer(*asked, "--available-kv-gib", "89.714", "--json", "--", f"{name}=0")
    assert not off["fits"]
    assert off["env"] == {name: "0"}
    assert off["printed"]["Maximum concurrency for 5,242,880 tokens per request"] == 0.75
    on = answer(*asked, "--available-kv-gib", "89.714", "--json", "--", f"{name}=1")
    assert on["fits"]
    assert on["fits_with_defaults"]
    assert on["printed"]["Maximum concurrency for 5,242,880 tokens per request"] == 2.96


def test_a_context_above_the_models_only_when_vllm_is_told_to_allow_it() -> None:
    with pytest.raises(InputError, match="above the 10Mi tokens"):
        invoke(*SCOUT, "--engine", "vllm", "--engine-version", "0.12.0", "--context", "20M")
    allowed = "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"
    hybrid = "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE=1"
    old = [*SCOUT, "--engine", "vllm", "--engine-version", "0.12.0", "--context", "20M"]
    value = answer(*old, "--available-kv-gib", "89.714", "--json", "--", allowed, hybrid)
    assert not value["starts"]
    assert value["printed"]["estimated maximum model length"] == 15_629_504


def test_times_of_microseconds_are_not_zero() -> None:
    short = answer("qwen3-0.6b", "--gpus", "1xB200", "--tp", "1", "--engine", "vllm", "--context", "16")
    floor = short["ttft_s"]["floor"]
    assert 0 < floor < 5e-4
    assert abs(floor - round(floor, 4)) > 0, "not cut to tenths of a millisecond"
    assert 0 < short["itl_s"]["floor"] < 5e-4


def test_json_may_stand_behind_the_engines_flags() -> None:
    before = invoke(*SCOUT, "--engine", "vllm", "--context", "1M", "--json", "--", "--max-num-seqs", "8")
    behind = invoke(*SCOUT, "--engine", "vllm", "--context", "1M", "--", "--max-num-seqs", "8", "--json")
    assert json.loads(behind.stdout) == json.loads(before.stdout)
    assert "--json" not in json.loads(behind.stdout)["flags"]


def test_as_given_adds_nothing() -> None:
    asked = [*SCOUT, "--engine", "sglang", "--engine-version", "0.5.16", "--context", "10M"]
    value = answer(*asked)
    assert value["fits"]
    assert not value["fits_with_defaults"]
    assert value["added"]
    assert value["levers"]
    assert value["fix"] is None
    value = answer(*asked, "--as-given")
    assert not value["fits"]
    assert value["added"] == []
    first = next(lever for lever in value["levers"] if lever["change"] == "--max-running-requests 8")
    assert first["bytes_freed"] > 76 * 2**30
    assert value["fix"]["changes"]


def test_fewest_gpus_of_several_kinds() -> None:
    result = invoke("llama-4-scout", "--gpus", "H200,L40S", "--context", "1M", "--find", "gpus", "--json")
    kinds = json.loads(result.stdout)["by_gpu"]
    assert list(kinds) == ["H200", "L40S"]
    assert kinds["H200"]["engines"]["vllm"]["value"] < kinds["L40S"]["engines"]["vllm"]["value"]
    with pytest.raises(InputError, match="several kinds"):
        invoke("llama-4-scout", "--gpus", "H200,L40S", "--context", "1M")


def test_the_answer_comes_first_then_flags_then_the_ledger() -> None:
    result = invoke(*SCOUT, "--engine", "vllm", "--context", "10M")
    assert result.exit_code == 0
    text = result.stdout
    command_at = text.index("vllm serve meta-llama/Llama-4-Scout-17B-16E-Instruct")
    ledger_at = text.index("Memory on each GPU:")
    assert 0 < command_at < ledger_at
    assert "--max-model-len 10000000" in text


def test_explain_shows_formulas_and_sources() -> None:
    plain = invoke(*SCOUT, "--engine", "vllm", "--context", "1M").stdout
    explained = invoke(*SCOUT, "--engine", "vllm", "--context", "1M", "--explain").stdout
    value = answer(*SCOUT, "--engine", "vllm", "--context", "1M")
    for line in value["ledger"]:
        assert line["formula"] in explained
        assert line["source"] in explained
    assert len(explained.splitlines()) >= len(plain.splitlines()) + 2 * len(value["ledger"])


def test_a_sweep_has_a_row_a_context() -> None:
    result = invoke(*SCOUT, "--engine", "vllm", "--contexts", "128k,1M,2M,5M,10M", "--json")
    assert result.exit_code == 0
    points = json.loads(result.stdout)["points"]
    assert [point["context"] for point in points] == [128_000, 10**6, 2 * 10**6, 5 * 10**6, 10**7]
    assert all(point["fits"] for point in points)
    times = [point["ttft_s"]["expected"] for point in points]
    assert times == sorted(times)
    ratios = [point["max_concurrency"] for point in points]
    assert ratios == sorted(ratios, reverse=True)
    missed = invoke(
        *SCOUT,
        "--engine",
        "sglang",
        "--contexts",
        "128k,10M",
        "--as-given",
        "--",
        "--mem-fraction-static",
        "0.8",
    )
    assert missed.exit_code == 3
    title, heading, *rows, times, cure = missed.stdout.splitlines()
    assert (title.split(",")[-1].strip(), heading.split()[0], len(rows)) == ("TP 8", "context", 2)
    assert times.startswith("Times are of one request alone")
    assert cure.startswith("10M: sglang fits with ")


def test_find_prints_one_row_an_engine() -> None:
    result = invoke(*SCOUT, "--find", "context")
    assert result.exit_code == 0
    title, heading, *rows, times, refused = result.stdout.splitlines()
    assert (title.split()[0], heading.split()[0], len(rows)) == ("longest", "engine", 2)
    assert times.startswith("Times are of one request alone")
    assert refused.startswith("Not planned for builtin: ")
    value = json.loads(invoke(*SCOUT, "--find", "context", "--engine", "vllm", "--json").stdout)
    assert value["engines"]["vllm"]["value"] == 10_485_760


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "10M", "--tp", "3"], "does not divide"),
        (["--context", "11M"], "above the 10Mi tokens"),
        (["--context", "1M", "--engine", "vllm", "--engine-version", "newest"], "newest"),
        (["--context", "1M", "--engine-version", "0.12.0"], "belong to one engine"),
        (["--context", "banana"], "not a token count"),
        (["--context", "1M", "--gpus", "8xVoodoo"], "not a GPU"),
        (["--context", "1M", "--concurrency", "0"], "not positive"),
        (["--context", "1M", "--available-kv-gib", "nan"], "not a memory size"),
        (["--context", "1M", "--available-kv-gib", "-1"], "not a memory size"),
        (["--context", "1M", "--engine", "vllm", "--", "--max-num-seqs", "many"], "not a whole number"),
        (["--context", "1M", "--engine", "vllm", "--", "0.85"], "belongs to no engine flag"),
        ([], "nothing is asked"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        invoke(*SCOUT, *arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_an_unknown_model() -> None:
    with pytest.raises(InputError, match="did you mean llama-4-scout"):
        invoke("llama-4-scut", "--gpus", "8xH200", "--context", "1M")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    source = Path(__file__).parents[2] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "farspan", "plan", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_exit_codes_of_the_real_command() -> None:
    assert run(*SCOUT, "--context", "1M", "--engine", "vllm").returncode == 0
    tight = ("--as-given", "--", "--mem-fraction-static", "0.80")
    assert run(*SCOUT, "--context", "10M", "--engine", "sglang", *tight).returncode == 3
    bad = run(*SCOUT, "--context", "11M")
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("farspan: a context of 11M")
    assert len(bad.stderr.splitlines()) == 1
    assert run(*SCOUT, "--nonsense").returncode == 2


# What no question to the planner needs, of other people's code and of farspan's: names of modules and packages.
HEAVY = (
    *(
        "torch",
        "numpy",
        "transformers",
        "tokenizers",
        "rich",
        "aiohttp",
        "huggingface_hub",
        "jinja2",
        "yaml",
        "fastapi",
    ),
    *(
        "asyncio",
        "difflib",
        "http",
        "importlib.metadata",
        "importlib.resources",
        "ssl",
        "tempfile",
        "urllib.request",
    ),
    *("farspan.builtin", "farspan.diagnosis", "farspan.integrations", "farspan.kv", "farspan.measurement"),
    *(
        "farspan.prompts",
        "farspan.proof",
        "farspan.reports",
        "farspan.engines.logs",
        "farspan.engines.command",
    ),
    *("farspan.models.hub", "farspan.models.hub_cache", "farspan.models.families.mixers"),
    *("farspan.models.families.quantization", "farspan.models.families.served", "farspan.planner.levers"),
    *("farspan.engines.builtin.plan", "farspan.engines.vllm.compressed"),
)
LLAMA_4_ALONE = ("farspan.models.families.table", "farspan.models.families.declaration")
NO_SEARCH = ("farspan.planner.questions", "farspan.planner.search_text", "farspan.planner.sweep")
NO_DOCUMENT = ("farspan.planner.document", "farspan.planner.build_document")


@pytest.mark.parametrize(
    ("words", "others"),
    [
        (("plan", *SCOUT, "--context", "1M"), (*LLAMA_4_ALONE, *NO_SEARCH, *NO_DOCUMENT)),
        (
            ("plan", *SCOUT, "--context", "1M", "--json"),
            (*LLAMA_4_ALONE, *NO_SEARCH, "farspan.planner.plan_text"),
        ),
        (("plan", *SCOUT, "--find", "context"), (*LLAMA_4_ALONE, *NO_DOCUMENT)),
        (
            ("plan", "qwen3-32b", "--gpus", "2xH100", "--context", "32k", "--engine", "vllm"),
            (*NO_SEARCH, *NO_DOCUMENT, "farspan.engines.sglang.plan", "farspan.engines.sglang.versions"),
        ),
        (
            ("plan", "qwen3-32b", "--gpus", "2xH100", "--context", "32k", "--engine", "sglang"),
            (*NO_SEARCH, *NO_DOCUMENT, "farspan.engines.vllm.plan", "farspan.engines.vllm.versions"),
        ),
        (("--help",), ("farspan.engines", "farspan.models", "farspan.planner", "farspan.verbs", "orjson")),
    ],
    ids=["context", "json", "find", "vllm", "sglang", "help"],
)
def test_planning_imports_nothing_that_it_does_not_need(words: Sequence[str], others: Sequence[str]) -> None:
    """Imports are most of a plan's time, which is to stay within 0.3 s."""
    code = (
        "import sys; from farspan.cli.main import group\n"
        "try: group.main(sys.argv[1:], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    ran = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, check=True
    )
    imported = ran.stdout.splitlines()[-1].split()
    assert "farspan.cli.main" in imported
    assert [
        name for name in imported for each in (*HEAVY, *others) if name == each or name.startswith(f"{each}.")
    ] == []


def test_the_longest_context_is_planned_with_all_that_it_needs() -> None:
    asked = (*SCOUT, "--engine", "vllm", "--engine-version", "0.12.0")
    longest = invoke(*asked, "--context", "max")
    assert longest.exit_code == 0
    assert longest.output.startswith("10Mi fits")
    found = invoke(*asked, "--find", "context")
    assert "10,485,760" in found.output
    assert "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE=1" in found.output
    none = invoke(*asked, "--context", "max", "--concurrency", "100000")
    assert none.exit_code == 3


def test_a_command_names_the_checkpoint_that_was_planned() -> None:
    words = (*SCOUT, "--engine", "vllm", "--context", "1M")
    assert "vllm serve meta-llama/Llama-4-Scout" in invoke(*words).stdout
    assert "vllm serve meta-llama/Llama-4-Scout" in invoke(*words, "--weights", "bf16").stdout
    assert "vllm serve PATH_TO_A_CHECKPOINT_IN_INT4" in invoke(*words, "--weights", "int4").stdout


@pytest.mark.parametrize(("engine", "flag"), [("vllm", "--max-model-len"), ("sglang", "--context-length")])
def test_a_limit_below_the_context_is_the_first_thing_to_drop(engine: str, flag: str) -> None:
    result = invoke(*SCOUT, "--engine", engine, "--context", "10M", "--", flag, "5000000")
    assert result.exit_code == 3
    cure = next(line for line in result.stdout.splitlines() if line.startswith("It fits with "))
    assert cure.startswith(f"It fits with without {flag}") or f"without {flag}" in cure
