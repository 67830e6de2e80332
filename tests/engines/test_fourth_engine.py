"""A further engine is one package and one line: every verb takes the toy of tests/support/toy_engine as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from farspan.cli.main import group
from farspan.diagnosis.knowledge import all_rules, knowledge
from farspan.engines.registry import ENGINE_MODULES, get_engine
from farspan.errors import NotFoundError, UnsupportedError
from farspan.measurement.runs.series import read_series
from farspan.models.probe import write_probe
from farspan.reports.report_run import load_report_runs
from scripted import Script, serve_in_thread

SCOUT = ("llama-4-scout", "--gpus", "8xH200", "--offline")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(ENGINE_MODULES, "toy", "toy_engine.engine")
    for gathered in (all_rules, knowledge):
        gathered.cache_clear()
    yield
    for gathered in (all_rules, knowledge):
        gathered.cache_clear()


def farspan(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(word) for word in arguments], standalone_mode=False)


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    done = farspan(*arguments, "--json")
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert (done.return_value or done.exit_code) == code, done.output
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def test_plan_puts_it_beside_the_others() -> None:
    found = answer("plan", *SCOUT, "--context", "1M")["engines"]
    assert {"vllm", "sglang", "toy"} <= found.keys()
    assert found["toy"]["fits"] is True
    assert found["toy"]["version"] == "1.1.0"
    text = farspan("plan", *SCOUT, "--context", "1M", "--engine", "toy").stdout
    assert "toy run meta-llama/Llama-4-Scout-17B-16E-Instruct" in text
    assert "no run of toy 1.1.0 bf16 KV on H200 was measured" in json.dumps(found["toy"])


def test_plan_searches_it_and_says_what_would_help() -> None:
    longest = answer("plan", *SCOUT, "--engine", "toy", "--find", "context")["engines"]["toy"]
    value = longest["value"]
    assert value > 1_000_000
    assert answer("plan", *SCOUT, "--engine", "toy", "--context", value)["engines"]["toy"]["fits"] is True
    over = answer("plan", *SCOUT, "--engine", "toy", "--context", value + 1, code=3)["engines"]["toy"]
    assert [lever["change"] for lever in over["levers"]] == ["--lean"]


def test_serve_makes_its_command_and_manifest() -> None:
    serve = ("serve", *SCOUT, "--engine", "toy", "--context", "1M", "--dry-run")
    argv = answer(*serve)["argv"]
    assert "example/toy:1.1.0" in argv
    assert argv[argv.index("--entrypoint") + 1] == "toy"
    assert "TOY_QUIET=1" in argv
    assert argv[argv.index("--ctx") + 1] == "1000000"
    older = answer(*serve, "--engine-version", "1.0.0")
    assert "example/toy:1.0.0" in older["argv"]
    assert older["version"] == "1.0.0"
    manifest = farspan(*serve, "--runtime", "kubernetes").stdout
    assert "path: /alive" in manifest
    refused = farspan(*serve, "--", "--turbo")
    assert "toy has no --turbo" in str(refused.exception)


def test_rehearse_refuses_it_as_it_always_reads_weights() -> None:
    refused = farspan("rehearse", *SCOUT, "--engine", "toy", "--tp", "8", "--dry-run")
    assert isinstance(refused.exception, UnsupportedError)
    assert "reads weights in any case" in str(refused.exception)


def test_bench_reads_its_name_its_limit_and_its_metrics(tmp_path: Path) -> None:
    write_probe(tmp_path / "recall")
    with serve_in_thread() as server:
        server.script = Script(recall=True)
        server.card = {
            "id": "m",
            "owned_by": "toyworks",
            "root": str(tmp_path / "recall"),
            "max_model_len": 4000,
        }
        server.metrics = "toy:running 1\ntoy:pool_usage 0.25\n"
        bench = ("bench", "--url", server.url, "--run", tmp_path / "run")
        found = answer(*bench, "--contexts", "200,1k")
        assert found["good"] is True
        readings = read_series(tmp_path / "run")["engine"]
        assert {reading.value for reading in readings["kv_usage"]} == {0.25}
        too_long = farspan(*bench, "--contexts", "10k")
    assert "start the server with --ctx" in str(too_long.exception)
    assert load_report_runs([tmp_path / "run"])[0].engine == "Toy Server 1.2.3"


def test_doctor_reads_its_log_and_knows_its_failure(tmp_path: Path) -> None:
    log = tmp_path / "toy.log"
    log.write_text("starting\ntoy 1.0.0 answers, ctx 900000\nERROR toy pool is full: 880123 tokens\n")
    found = answer("doctor", log, code=1)
    assert (found["engine"], found["version"]) == ("toy", "1.0.0")
    (finding,) = found["findings"]
    assert finding["id"] == "toy-pool-full"
    assert "900,000 tokens ran full with 880123" in finding["cause"]
    assert finding["fix"] == ["--lean: gives the reserve to the pool"]


def test_a_name_that_is_none_says_which_are() -> None:
    with pytest.raises(NotFoundError, match=r"did you mean toy\? choose one of vllm, sglang, builtin, toy"):
        get_engine("tooy")
