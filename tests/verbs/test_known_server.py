"""A bench of a server that farspan has started takes what its record tells, and the report shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import farspan
from farspan.errors import InputError, NotFoundError, UnsupportedError
from farspan.launch.launch_spec import Launch
from farspan.launch.serve import _record, describe_flags
from farspan.launch.server_records import ServerRecord, StateFolder, process_start
from farspan.reports.report_run import load_report_runs
from farspan.verbs.known_server import find_known_server
from scripted import Script, serve_in_thread

SCOUT = {
    "gpus": "8xH200",
    "engine": "vllm",
    "runtime": "local",
    "context": "1M",
    "offline": True,
    "engine_version": "0.24.0",
}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return StateFolder()


@pytest.fixture(scope="module")
def recall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return farspan.probe(tmp_path_factory.mktemp("known") / "recall", heads=2, kv_heads=2).folder


@pytest.fixture
def url() -> Iterator[str]:
    with serve_in_thread() as server:
        server.script = Script(recall=True)
        yield server.url


@pytest.fixture
def record(
    state: StateFolder, url: str, recall: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ServerRecord:
    """A record as `farspan serve` writes it for this test's own process, of a plan on GPUs."""
    prepared = farspan.serve("llama-4-scout", dry_run=True, name="scout", model_path=str(recall), **SCOUT)
    launch: Launch = prepared.runtime.launch
    (tmp_path / "the.log").write_text("INFO 06-01 10:00:00 [core.py:1] the log of the server\n")

    class Mine:
        log = tmp_path / "the.log"
        pid = os.getpid()

    monkeypatch.setattr(
        type(prepared.runtime),
        "record_fields",
        lambda self, running: {"pid": running.pid, "pid_started": process_start(running.pid)},
    )
    kept = replace(_record(prepared.runtime, Mine()), url=url, ready_s=3.0)  # type: ignore[arg-type]
    assert kept.flags == describe_flags(launch)
    state.save(kept)
    return kept


@pytest.mark.parametrize("named", ["scout", "url", "localhost"])
def test_a_bench_knows_what_the_record_tells(
    named: str, record: ServerRecord, url: str, tmp_path: Path, recall: Path
) -> None:
    given = {"scout": "scout", "url": f"{url}/v1", "localhost": url.replace("127.0.0.1", "localhost")}[named]
    result = farspan.bench(given, run=tmp_path / "run", contexts=["1k", 2000], metrics_interval=0)
    assert result.good
    assert result.options.tokenizer == str(recall)
    (start,) = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    assert start["launch"]["flags"] == record.flags
    assert "--max-model-len 1000000" in record.flags
    assert [point["context"] for point in start["plan"]["points"]] == [1000, 2000]
    (run,) = load_report_runs([tmp_path / "run"])
    assert run.flags() == record.flags
    assert run.log_name == "server.log"
    assert (tmp_path / "run" / "server.log").read_text() == Path(record.log).read_text()
    assert run.plan is not None
    assert run.plan.times.at(2000) is not None
    assert run.plan.ledger, "the memory is that of the plan the server was started by"


def test_what_is_given_stays(record: ServerRecord, tmp_path: Path, recall: Path) -> None:
    farspan.plan("llama-4-scout", gpus="8xH200", engine="vllm", context="1k")
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps(farspan.plan("llama-4-scout", gpus="8xH200", context="1k").to_json(), default=str)
    )
    result = farspan.bench(
        "scout",
        run=tmp_path / "run",
        contexts=[1000],
        plan=plan,
        tokenizer=recall / "tokenizer.json",
        metrics_interval=0,
    )
    assert result.options.plan == plan
    assert result.options.tokenizer == recall / "tokenizer.json"


def test_a_process_that_has_gone_is_not_the_server_at_its_address(
    state: StateFolder, record: ServerRecord, url: str
) -> None:
    assert find_known_server(url, state) is not None
    state.save(replace(record, pid_started=record.pid_started + 1))
    assert find_known_server(url, state) is None


def test_names_that_cannot_be_measured(state: StateFolder, record: ServerRecord) -> None:
    with pytest.raises(NotFoundError, match="no server 'scuot'; there is scout"):
        find_known_server("scuot", state)
    state.save(replace(record, failed="it ended"))
    with pytest.raises(InputError, match="did not start: it ended; farspan logs scout"):
        find_known_server("scout", state)
    state.save(replace(record, runtime="kubernetes", url=""))
    with pytest.raises(UnsupportedError, match="port-forward"):
        find_known_server("scout", state)
    assert find_known_server("http://127.0.0.1:1", state) is None


def test_without_a_name_a_failed_one_gives_way(state: StateFolder, record: ServerRecord) -> None:
    state.save(replace(record, name="old", failed="it ended"))
    assert state.find(None) == record
    state.remove("scout")
    assert state.find(None).name == "old"
    assert [server.state for server in farspan.status().servers] == ["failed"]
    assert farspan.logs().argv == ()
    farspan.stop()
    assert farspan.status().servers == ()


def test_the_doctor_reads_a_servers_log_by_its_name(record: ServerRecord) -> None:
    assert record.name == "scout"
    report = farspan.doctor("scout")
    assert report.lines == 1
    with pytest.raises(InputError, match="the name of a server in farspan status"):
        farspan.doctor("scouts")


def test_a_prompt_is_built_with_the_tokenizer_of_a_server_by_its_name(
    record: ServerRecord, tmp_path: Path
) -> None:
    named = farspan.prompt("2k", record.name, output=tmp_path / "named.txt", verify_with=record.name)
    folder = farspan.prompt("2k", record.tokenizer, output=tmp_path / "folder.txt")
    assert (tmp_path / "named.txt").read_text() == (tmp_path / "folder.txt").read_text()
    assert named.prompts[0].tokenizer == folder.prompts[0].tokenizer
    with pytest.raises(InputError, match="nobody does not exist"):
        farspan.prompt("2k", "nobody", output=tmp_path / "none.txt")


def test_the_status_of_a_start_says_what_it_is_doing(
    record: ServerRecord, state: StateFolder, tmp_path: Path
) -> None:
    log = tmp_path / "start.log"
    log.write_text(
        "(APIServer pid=1) INFO 12-02 10:00:00 [api_server.py:1772] vLLM API server version 0.12.0\n"
        "(APIServer pid=1) INFO 12-02 10:00:00 [utils.py:253] non-default args: {'model': '/m'}\n"
        "(EngineCore_DP0 pid=80) INFO 12-02 10:00:20 [gpu_model_runner.py:3467] Starting to load model /m...\n"
        "Loading safetensors checkpoint shards:  34% Completed | 17/50 [02:40<05:10,  9.41s/it]\n"
    )
    state.save(replace(record, ready_s=None, log=str(log), url="http://127.0.0.1:9"))
    (server,) = farspan.status().servers
    assert (server.state, server.why) == ("starting", "loading the weights, 17 of 50 in 2 min 40 s")
    log.unlink()
    (server,) = farspan.status().servers
    assert server.state == "starting"
    assert "Connection refused" in server.why
