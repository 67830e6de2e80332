from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farspan.bench.runs import load_run
from farspan.bench.status import Status
from farspan.cli.main import main
from farspan.models.probe import write_probe
from scripted import Script, ScriptedServer, serve_in_thread

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "recall"
    write_probe(folder)
    return folder


@pytest.fixture
def recall(checkpoint: Path) -> Iterator[ScriptedServer]:
    with serve_in_thread() as server:
        server.script = Script(recall=True)
        server.card |= {"root": str(checkpoint), "max_model_len": 4000}
        yield server


def farspan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["farspan", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(ended.value.code or 0), out, err


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recall: ScriptedServer,
    tmp_path: Path,
) -> Any:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        given = ["bench", "--url", recall.url, "--contexts", "200,1k", "--run", tmp_path / "run", *arguments]
        return farspan(capsys, monkeypatch, *given)

    return call


def test_json_is_all_that_standard_output_holds(run: Any, recall: ScriptedServer) -> None:
    code, out, err = run("--depths", "0.1,0.9", "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["good"] is True
    assert [r["status"] for r in summary["requests"]] == ["ok"] * 4
    assert {r["prompt_tokens"] for r in summary["requests"]} == {200, 1000}
    assert {r["score"] for r in summary["requests"]} == {1.0}
    assert "[4/4]" in err
    starts = {tuple(request["prompt"][:12]) for request in recall.requests}
    assert len(starts) == 4


def test_a_person_gets_a_table_and_the_place_of_the_results(run: Any, tmp_path: Path) -> None:
    code, out, err = run()
    assert code == 0
    assert "prefill tok/s" in out
    assert "1k" in out
    assert f"Results are in {tmp_path / 'run'}" in out
    assert "recall 100%" in err


def test_aliases_are_those_of_vllm(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recall: ScriptedServer,
    tmp_path: Path,
) -> None:
    code, out, _ = farspan(
        capsys, monkeypatch, "bench", "--base-url", recall.url, "--input-len", 300, "--output-len", 5,
        "--max-concurrency", 2, "--result-dir", tmp_path / "run", "--json",
    )  # fmt: skip
    assert code == 0
    (request,) = json.loads(out)["requests"]
    assert (request["prompt_tokens"], request["output_tokens"]) == (300, 5)


@pytest.mark.parametrize("form", [("--prompt-as", "text"), ("--api", "chat")])
def test_text_is_sent_when_asked_for(run: Any, recall: ScriptedServer, form: tuple[str, str]) -> None:
    # BOS, and for a chat the header too, are the server's to add.
    recall.script = Script(recall=True, count_offset=1 if "text" in form else 4)
    code, out, _ = run(*form, "--json")
    assert code == 0, out
    request = recall.requests[0]
    text = request["prompt"] if "text" in form else request["messages"][0]["content"]
    assert isinstance(text, str)
    assert {r["score"] for r in json.loads(out)["requests"]} == {1.0}


def test_some_failures_exit_with_1_and_say_what_to_do(run: Any, recall: ScriptedServer) -> None:
    recall.scripts = [Script(status=400, error={"error": {"message": "the prompt is too long"}})]
    code, out, err = run()
    assert code == 1
    assert "refused" in out
    (line,) = [line for line in err.splitlines() if line.startswith("farspan: refused")]
    assert "the prompt is too long" in line
    assert ";" in line


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (Script(status=401), "--api-key"),
        (Script(status=500, error="boom"), "HTTP 500: boom; read the server's log"),
        (Script(cut_after=1), "after 1 events with tokens"),
    ],
)
def test_nothing_but_failures_exits_with_2_in_one_line(
    run: Any, recall: ScriptedServer, tmp_path: Path, script: Script, words: str
) -> None:
    recall.script = script
    code, _, err = run()
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("farspan:")]
    assert line.startswith("farspan: all 2 requests failed alike")
    assert words in line
    assert len(load_run(tmp_path / "run").results) == 2


def test_a_wrong_answer_exits_with_1(run: Any, recall: ScriptedServer) -> None:
    recall.script = Script(reply="Nothing of the kind")
    code, _, err = run()
    assert code == 1
    assert "wrong_answer" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--contexts", "5k"],
            "above the server's limit of 4,000; start the server with --max-model-len 5016",
        ),
        (["--contexts", "ten"], "'ten' is not a token count"),
        (["--depths", "2"], "not a list of fractions"),
        (["--model", "other"], "does not serve 'other'"),
        (["--url", "http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9"),
        (["--url", "localhost:8000"], "is not a server's address"),
        (["--extra-body", "[1]"], "not a JSON object"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--task", "cooking"], "cooking"),
        (["--retry-failed"], "--resume"),
        (["--concurrency", "x"], "not a valid integer"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_sent(
    run: Any, recall: ScriptedServer, arguments: list[str], words: str
) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert words in err
    assert recall.requests == []


def test_a_run_folder_in_use_is_refused_and_resumed(run: Any, recall: ScriptedServer) -> None:
    assert run()[0] == 0
    code, _, err = run()
    assert code == 2
    assert "--resume" in err
    code, out, err = run("--resume", "--contexts", "200,1k,3k", "--json")
    assert code == 0
    assert len(json.loads(out)["requests"]) == 3
    assert "2 are there already" in err
    assert len(recall.requests) == 3


def test_the_key_is_used_and_never_shown(
    run: Any, recall: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall.key = "hunter2"
    code, _, err = run()
    assert code == 2
    assert "OPENAI_API_KEY" in err
    monkeypatch.setenv("OPENAI_API_KEY", "hunter2")
    code, out, err = run("--json")
    assert code == 0
    kept = "".join(path.read_text() for path in (tmp_path / "run").iterdir())
    assert "hunter2" not in out + err + kept


def start_bench(server: ScriptedServer, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "farspan", "bench", "--url", server.url, "--contexts", "200,300,400,500",
            "--depths", "0.1,0.9", "--repeats", "3", "--concurrency", "3", "--seed", "5", "--run", str(folder),
            *arguments,
        ],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def wait_for_lines(folder: Path, count: int) -> None:
    path = folder / "requests.jsonl"
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_keeps_the_results_and_says_how_to_go_on(recall: ScriptedServer, tmp_path: Path) -> None:
    recall.script = Script(recall=True, ttft_s=0.1)
    bench = start_bench(recall, tmp_path / "run")
    try:
        wait_for_lines(tmp_path / "run", 2)
        bench.send_signal(signal.SIGINT)
        _, err = bench.communicate(timeout=30)
    finally:
        bench.kill()
    assert bench.returncode == 130
    assert f"--run {tmp_path / 'run'} --resume" in err
    assert "Traceback" not in err
    assert 2 <= len(load_run(tmp_path / "run").results) < 24


def test_killed_at_random_and_resumed_nothing_is_lost_or_repeated(
    recall: ScriptedServer, tmp_path: Path
) -> None:
    recall.script = Script(recall=True, ttft_s=0.05)
    folder = tmp_path / "run"
    choice = random.Random(11)
    kept: dict[object, object] = {}
    for _ in range(4):
        bench = start_bench(recall, folder, "--resume")
        try:
            wait_for_lines(folder, len(kept) + 1)
            time.sleep(choice.uniform(0, 0.15))
        finally:
            bench.kill()
            bench.communicate(timeout=30)
        now = {result.job: result for result in load_run(folder).results}
        assert len(now) > len(kept)
        assert all(now[job] == result for job, result in kept.items())  # type: ignore[index]
        kept = dict(now)
    bench = start_bench(recall, folder, "--resume", "--json")
    out, err = bench.communicate(timeout=60)
    assert bench.returncode == 0, err
    assert len(json.loads(out)["requests"]) == 24
    lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    assert len(lines) == 24
    assert len({(line["context"], line["depth"], line["repeat"]) for line in lines}) == 24
    assert {line["status"] for line in lines} == {Status.OK.value}
    assert not (folder / "prompts").exists()
