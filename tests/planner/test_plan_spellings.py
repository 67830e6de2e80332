"""What people write on the command line and mean: sizes of a division among the engine's own flags, times that cannot
be kept, and words for the longest context."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import farspan
from farspan.cli.plan import command
from farspan.errors import DoesNotFitError, InputError
from farspan.models.config import load_model
from farspan.planner.search_text import search_lines

SCOUT = {"gpus": "8xH200", "offline": True}


@pytest.mark.parametrize(
    ("engine", "flags", "tp"),
    [
        ("vllm", (), 8),
        ("vllm", ("-tp", "4"), 4),
        ("vllm", ("--tensor-parallel-size=2",), 2),
        ("vllm", ("--data-parallel-size", "2"), 4),
        ("vllm", ("--pipeline-parallel-size", "2"), 4),
        ("vllm", ("-pp", "2", "-tp", "2"), 2),
        ("sglang", ("--tp", "4"), 4),
        ("sglang", ("--tp-size", "2", "--dp-size", "2"), 2),
        ("sglang", ("--dp", "2", "--mem-frac", "0.8"), 4),
    ],
)
def test_the_engines_own_flags_say_how_gpus_are_divided(engine: str, flags: tuple[str, ...], tp: int) -> None:
    answer = farspan.plan(
        "qwen3-8b", gpus="8xH200", engine=engine, context="8k", engine_flags=flags, offline=True
    )
    assert answer.to_json()["tp"] == tp


def test_sglang_takes_the_beginning_of_a_flag_that_only_one_has() -> None:
    short, whole = (
        farspan.plan("llama-4-scout", context="1M", engine="sglang", engine_flags=flags, **SCOUT).to_json()
        for flags in (("--tp", "8", "--mem-frac", "0.7"), ("--tp-size", "8", "--mem-fraction-static", "0.7"))
    )
    assert short == whole
    with pytest.raises(InputError, match="no flag --pp"):
        farspan.plan("llama-4-scout", context="1M", engine="sglang", engine_flags=("--pp", "2"), **SCOUT)


def test_a_division_that_needs_more_gpus_says_so() -> None:
    with pytest.raises(InputError, match="2 pipeline stages of 8 GPUs need 16"):
        farspan.plan(
            "llama-4-scout", context="1M", engine="vllm", engine_flags=("-tp", "8", "-pp", "2"), **SCOUT
        )


def test_both_ways_that_contradict_are_still_refused() -> None:
    with pytest.raises(InputError, match="contradicts --tp 8"):
        farspan.plan("llama-4-scout", context="1M", engine="vllm", tp=8, engine_flags=("-tp", "4"), **SCOUT)


def test_serve_reads_them_too() -> None:
    served = farspan.serve(
        "llama-4-scout", dry_run=True, engine="vllm", engine_version="0.24.0", context="100k",
        engine_flags=("-tp", "4"), **SCOUT,
    )  # fmt: skip
    assert served.runtime.launch.gpus == 4


@pytest.mark.parametrize("word", ["auto", "longest", "AUTO", "MAX", "full"])
def test_the_longest_context_has_several_words_in_any_case(word: str) -> None:
    written, longest = (
        farspan.plan("llama-4-scout", context=one, engine="vllm", **SCOUT) for one in (word, "max")
    )
    assert written.to_json() == longest.to_json()
    served, known = (
        farspan.serve("llama-4-scout", dry_run=True, engine="vllm", context=one, **SCOUT).runtime.launch
        for one in (word, "max")
    )
    assert (served.context, served.command) == (known.context, known.command)


def test_the_longest_context_is_a_row_among_several() -> None:
    asked = {"engine": "vllm", "gpus": "4xH200", "offline": True}
    longest = farspan.plan("llama-4-scout", context="max", **asked).request.context
    for written in ("1M, max", ["1M", "auto"]):
        points = farspan.plan("llama-4-scout", contexts=written, **asked).points
        assert [point.context for point in points] == [1_000_000, longest]
        assert points[1].fits


def test_where_no_longest_is_looked_for_the_error_says_how_to_find_it() -> None:
    with pytest.raises(InputError, match="--context max tells the longest that fits"):
        farspan.prove("llama-4-scout", contexts="max", dry_run=True, **SCOUT)


def test_a_server_without_a_context_that_does_not_fit_names_the_longest_that_does() -> None:
    asked = {"engine": "vllm", "gpus": "4xH200", "offline": True, "dry_run": True}
    longest = farspan.serve("llama-4-scout", context="max", **asked).runtime.launch.context
    with pytest.raises(
        DoesNotFitError, match=rf"no --context was given.*--context max, {longest:,} tokens here"
    ):
        farspan.serve("llama-4-scout", **asked)
    with pytest.raises(DoesNotFitError) as given:
        farspan.serve("llama-4-scout", context="10Mi", **asked)
    assert "no --context was given" not in str(given.value)


@pytest.mark.parametrize(
    ("find", "times", "words"),
    [
        ("concurrency", {"ttft": "0.1s"}, "one alone has its first token in"),
        ("concurrency", {"itl": "1ms"}, "a token takes"),
        ("context", {"itl": "0.1ms"}, "a token takes"),
        ("gpus", {"ttft": "5s", "concurrency": 500}, "it fits on"),
    ],
)
def test_a_search_that_finds_nothing_says_which_time_is_missed(
    find: str, times: dict[str, object], words: str
) -> None:
    given = {"context": "40k"} if find != "context" else {}
    answer = farspan.plan("qwen3-8b", gpus="2xH100", engine="vllm", find=find, offline=True, **given, **times)
    ((request, (found,)),) = answer.found
    assert found.value == 0
    assert words in found.missed.words
    document = answer.to_json()["engines"]["vllm"]
    assert document["why_not"] == found.missed.words
    late = document["missed_ttft_s"] if "ttft" in times else document["missed_itl_s"]
    assert late > 0
    assert any(words in line for line in search_lines(request, answer.question, [found]))


def test_a_search_that_finds_no_room_blames_no_time() -> None:
    answer = farspan.plan(
        "llama-4-scout", gpus="1xT4", engine="vllm", context="1M", find="concurrency", ttft="1h", offline=True
    )
    ((_, (found,)),) = answer.found
    assert (found.value, found.missed.words) == (0, "")


def test_blocks_that_no_kernel_takes_are_refused() -> None:
    with pytest.raises(InputError, match="--block-size 7 is no multiple of 16"):
        farspan.plan(
            "qwen3-8b",
            gpus="H100",
            engine="vllm",
            context="8k",
            engine_flags=("--block-size", "7"),
            offline=True,
        )


def test_rope_scaling_multiplies_what_the_model_reaches_and_not_what_its_own_scaling_began_from() -> None:
    own = load_model("llama-4-scout").max_position_embeddings
    assert load_model("llama-4-scout", rope_scaling="yarn:2").max_position_embeddings == 2 * own


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("AWQ", "int4"),
        ("gptq", "int4"),
        ("w4a16", "int4"),
        ("FP8", "fp8"),
        ("bfloat16", "bf16"),
        ("fp8-e4m3", "fp8"),
    ],
)
def test_weights_are_named_by_their_method_too(written: str, meant: str) -> None:
    asked = {"engine": "vllm", "context": "1M", **SCOUT}
    spelled, named = (farspan.plan("llama-4-scout", weights=one, **asked) for one in (written, meant))
    assert spelled.plans[0].ledger == named.plans[0].ledger
    result = CliRunner().invoke(
        command, ["llama-4-scout", "--gpus", "8xH200", "--context", "1M", "--weights", written]
    )
    assert result.exit_code == 0


def test_no_weight_format_and_machines_among_the_gpus_are_refused_with_what_to_write() -> None:
    refused = CliRunner().invoke(
        command, ["llama-4-scout", "--gpus", "8xH200", "--context", "1M", "--weights", "int3"]
    )
    assert "'int3' is not a weight format; choose one of bf16, fp8, int4, mxfp4" in refused.output
    with pytest.raises(InputError, match="write all of them together, as 16xH200"):
        farspan.plan("llama-4-scout", gpus="2x8xH200", context="1M", offline=True)


def test_a_cpu_is_a_machine_without_gpus(tmp_path: Path) -> None:
    folder = farspan.probe(tmp_path / "recall", heads=2, kv_heads=2).folder
    asked = {"engine": "builtin", "runtime": "local", "context": "10k", "dry_run": True}
    cpu, none = (farspan.serve(str(folder), gpus=word, **asked).runtime.launch for word in ("cpu", "none"))
    assert cpu.command == none.command
    assert cpu.gpus == 0


def test_a_context_beyond_the_model_names_what_reaches_further() -> None:
    asked = {"gpus": "8xH200", "engine": "vllm", "offline": True}
    with pytest.raises(
        InputError, match=r"use --context 40Ki or less; --rope-scaling yarn:4 reaches further"
    ):
        farspan.plan("qwen3-235b-a22b", context="128Ki", **asked)
    assert farspan.plan("qwen3-235b-a22b", context="128Ki", rope_scaling="yarn:4", **asked).plans


def test_two_words_for_one_thing_are_refused_where_they_differ() -> None:
    asked = {"engine": "vllm", "context": "1M", **SCOUT}
    for ask in (farspan.plan, lambda *model, **words: farspan.serve(*model, dry_run=True, **words)):
        with pytest.raises(
            InputError, match="--kv-dtype fp8_e5m2 and --kv-cache-dtype fp8_e4m3 differ; give one"
        ):
            ask("llama-4-scout", kv_dtype="e5m2", engine_flags=("--kv-cache-dtype", "fp8_e4m3"), **asked)
        ask("llama-4-scout", kv_dtype="fp8", engine_flags=("--kv-cache-dtype", "fp8_e4m3"), **asked)
        ask("llama-4-scout", kv_dtype="auto", engine_flags=("--kv-cache-dtype", "fp8_e4m3"), **asked)
    with pytest.raises(InputError, match="--context and --contexts both say how long requests are"):
        farspan.plan("llama-4-scout", contexts="1M,2M", **asked)
