"""The front door: one function a verb, imported when it is used, with the result that the verb prints."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import click
import orjson
import pytest
from click.testing import CliRunner

import farspan
from farspan.cli.main import VERBS, group
from farspan.measurement.options import BenchOptions

# What a verb has and its function has not: how the result is printed, and what is said on the way.
ONLY_PRINTED = {"as_json", "explain", "form", "follow_up"}
# Verbs whose function has another name: Python keeps import for itself, and farspan.models is a package.
OTHER_NAMES = {
    "gpus": "list_gpus",
    "import": "import_run",
    "kv": "kv_status",
    "models": "list_models",
    "versions": "list_versions",
}


def test_every_verb_is_a_function_of_its_name() -> None:
    for verb in VERBS:
        function = getattr(farspan, OTHER_NAMES.get(verb, verb))
        assert callable(function), verb
        assert inspect.getdoc(function), verb


@pytest.mark.parametrize(
    "verb",
    [
        "compare",
        "demo",
        "doctor",
        "export",
        "import",
        "logs",
        "plan",
        "probe",
        "prompt",
        "prove",
        "rehearse",
        "report",
        "serve",
        "status",
        "stop",
        "validate",
    ],
)
def test_options_are_arguments(verb: str) -> None:
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    functions = [getattr(farspan, OTHER_NAMES.get(verb, verb))]
    if verb == "serve":
        from farspan.verbs.serve import prepare_server

        functions.append(prepare_server)
    if verb == "prove":
        from farspan.verbs.prove import prove_options
        from farspan.verbs.serve import prepare_server

        functions += [prove_options, prepare_server]
    if verb == "rehearse":
        from farspan.verbs.rehearse import rehearsal_options

        functions.append(rehearsal_options)
    if verb == "bench":
        from farspan.verbs.bench import bench_dry_run, bench_options

        functions += [bench_options, BenchOptions]
        functions.append(bench_dry_run)
    arguments = {name for function in functions for name in inspect.signature(function).parameters}
    options = {option.name for option in command.params} - ONLY_PRINTED
    if verb == "bench":
        options.discard("dry_run")  # a function of its own: bench_dry_run
    assert options, "a verb without options cannot be compared"
    assert options <= arguments, options - arguments


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, farspan; before = set(sys.modules); "
        "heavy = [m for m in ('torch', 'numpy', 'click', 'aiohttp', 'jinja2') if m in sys.modules]; print(heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_listed_and_unknown_ones_are_not_there() -> None:
    assert {"serve", "plan", "kv", "ModelSpec", "Gpu"} <= set(dir(farspan))
    with pytest.raises(AttributeError, match="no attribute 'plam'"):
        farspan.plam  # noqa: B018


def test_what_the_library_exports_is_there() -> None:
    for name in farspan.__all__:
        assert getattr(farspan, name) is not None, name


def run(*words: str) -> str:
    result = CliRunner().invoke(group, list(words))
    assert result.exit_code in (0, 1, 3), result.output
    return result.stdout


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (("--context", "10M"), {"context": "10M"}),
        (("--context", "10M", "--engine", "sglang"), {"context": 10_000_000, "engine": "sglang"}),
        (("--contexts", "1M,20M"), {"contexts": ("1M", 20_000_000)}),
        (("--context", "1M", "--find", "gpus"), {"context": "1M", "find": "gpus"}),
    ],
)
def test_a_plan_as_verb_and_as_function(words: tuple[str, ...], arguments: dict[str, object]) -> None:
    shown = json.loads(run("plan", "llama-4-scout", "--gpus", "8xH200", *words, "--json"))
    answer = farspan.plan("llama-4-scout", gpus="8xH200", **arguments)  # type: ignore[arg-type]
    assert shown == orjson.loads(orjson.dumps(answer.to_json()))
    spec = farspan.load_model("llama-4-scout")
    assert farspan.plan(spec, gpus="8xH200", **arguments).fits == answer.fits  # type: ignore[arg-type]


def test_a_probe_as_verb_and_as_function(tmp_path: Path) -> None:
    shown = json.loads(run("probe", "-o", str(tmp_path / "a"), "--heads", "2", "--kv-heads", "2", "--json"))
    made = farspan.probe(tmp_path / "b", heads=2, kv_heads=2)
    assert shown == {**made.to_json(), "folder": str(tmp_path / "a")}


def test_a_prompt_as_verb_and_as_function(tmp_path: Path) -> None:
    farspan.probe(tmp_path / "recall", heads=2, kv_heads=2)
    words = ("--tokens", "2k", "--tokenizer", str(tmp_path / "recall"), "--seed", "3")
    shown = json.loads(run("prompt", *words, "-o", str(tmp_path / "p.txt"), "--json"))
    built = farspan.prompt("2k", tmp_path / "recall", seed=3)
    assert built.data.decode() == (tmp_path / "p.txt").read_text()
    (mine,) = built.to_json()
    timed = {"seconds", "peak_rss_mib", "path", "verify_seconds"}
    assert {k: v for k, v in shown.items() if k not in timed} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in mine.items() if k not in timed
    }


def test_a_launch_as_verb_and_as_function(tmp_path: Path) -> None:
    folder = farspan.probe(tmp_path / "recall", heads=2, kv_heads=2).folder
    words = ("--engine", "builtin", "--runtime", "local", "--gpus", "none", "--context", "8k")
    shown = json.loads(run("serve", str(folder), *words, "--dry-run", "--json"))
    prepared = farspan.serve(
        str(folder), dry_run=True, engine="builtin", runtime="local", gpus="none", context="8k"
    )
    assert shown == orjson.loads(orjson.dumps(prepared.to_json()))


def test_statuses_as_verb_and_as_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert json.loads(run("status", "--json")) == farspan.status().to_json() == []
    assert farspan.status().all_ready
    with pytest.raises(farspan.FarspanError, match="started no server"):
        farspan.logs()


@pytest.mark.parametrize("verb", ["gpus", "models", "versions"])
def test_lists_as_verb_and_as_function(verb: str) -> None:
    shown = json.loads(run(verb, "--json"))
    assert shown == orjson.loads(orjson.dumps(getattr(farspan, f"list_{verb}")().to_json()))
    assert len(shown) > 2
