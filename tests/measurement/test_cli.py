from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farspan.cli.main import main
from farspan.measurement.runs.run_folder import load_run
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
    assert "prefill tokens/s" in out
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
        (Script(cut_after=1), "after 1 event with tokens"),
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
        (["--url", "localhost"], "there is no server 'localhost'"),
        (["--extra-body", "[1]"], "not a JSON object"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--task", "cooking"], "cooking"),
        (["--retry-failed"], "--resume"),
        (["--concurrency", "x"], "not a number of requests"),
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


def test_a_command_that_is_corrected_finds_no_folder_in_its_way(run: Any, tmp_path: Path) -> None:
    code, _, err = run("--task", "multi-needle")
    assert code == 2
    assert "cannot do the task" in err
    assert not (tmp_path / "run").exists()
    assert run()[0] == 0
    kept = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert run("--resume", "--contexts", "200,3")[0] == 2  # too short for a needle; the run is not taken back
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == kept


def test_metrics_that_cannot_be_read_are_said(run: Any, recall: ScriptedServer) -> None:
    code, out, err = run("--metrics-url", f"{recall.url}/none", "--metrics-interval", "0.05", "--json")
    assert code == 0
    (note,) = [line for line in err.splitlines() if line.startswith("Note: ")]
    assert f"{recall.url}/none answers HTTP 404" in note
    assert json.loads(out)["faults"] == [note.removeprefix("Note: ").removesuffix(".")]


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
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir())
    assert "hunter2" not in out + err
    assert b"hunter2" not in kept


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
    recall.scripts = [Script(recall=True)] * 2
    recall.script = Script(hang=True)
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
    assert len(load_run(tmp_path / "run").results) == 2


def test_a_dry_run_asks_nobody_and_writes_nothing(run: Any, recall: ScriptedServer, tmp_path: Path) -> None:
    code, out, _ = run(
        "--dry-run", "--repeats", 3, "--warmup", 1, "--rate", 2, "--burstiness", "constant", "--json"
    )
    assert code == 0
    plan = json.loads(out)
    assert (plan["requests"], plan["measured"], plan["prompt_tokens"]) == (7, 6, 3 * 1200 + 200)
    assert plan["last_leaves_s"] == 3.0
    code, out, _ = run("--dry-run")
    assert code == 0
    assert "2 requests; 1,200 prompt tokens" in out
    assert recall.requests == []
    assert not (tmp_path / "run").exists()
    assert run("--dry-run", "--repeats", 0)[0] == 2


def test_several_servers_in_one_document(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recall: ScriptedServer,
    tmp_path: Path,
) -> None:
    given = ["bench", "--engines", f"a@{recall.url},b@{recall.url}/v1", "--contexts", "200", "--repeats", 2]
    code, out, err = farspan(capsys, monkeypatch, *given, "--run", tmp_path / "both", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert list(document["engines"]) == ["a", "b"]
    assert [request["engine"] for request in document["requests"]] == ["a", "a", "b", "b"]
    assert recall.requests[:2] == recall.requests[2:]
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["a", "b"]
    code, out, _ = farspan(capsys, monkeypatch, *given, "--run", tmp_path / "both", "--resume")
    assert code == 0
    assert len(recall.requests) == 4
    assert "\nb:\n" in out


def test_percentiles_goodput_and_throughput_are_printed(run: Any, recall: ScriptedServer) -> None:
    recall.script = Script(recall=True, itl_s=0.005)
    code, out, _ = run("--repeats", 3, "--metric-percentiles", "50,99", "--goodput", "ttft:20s,e2el:90000")
    assert code == 0
    assert "p99" in out
    assert "few-repeats: p99 of 6 values needs 100" in out
    assert "goodput: 6 requests right and within the times (100%)" in out
    assert "requests/s" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engines", "a@http://x"], "either --url or --engines"),
        (["--rate", "-1"], "not a number above 0"),
        (["--length-distribution", "zipf:1"], "not a distribution"),
        (["--length-distribution", "uniform:10,20"], "either --contexts"),
        (["--goodput", "ttft=1"], "not a time to stay within"),
        (["--goodput", "speed:1"], "knows no 'speed'"),
        (["--percentiles", "0"], "not a list of percentiles"),
    ],
)
def test_more_bad_input(run: Any, recall: ScriptedServer, arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert recall.requests == []


def test_lengths_are_drawn_without_contexts(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recall: ScriptedServer,
    tmp_path: Path,
) -> None:
    given = ["bench", "--url", recall.url, "--run", tmp_path / "run", "--json"]
    drawn = ["--length-distribution", "uniform:200,900", "--num-prompts", 6, "--rate", 20, "--warmup", 1]
    code, out, err = farspan(capsys, monkeypatch, *given, *drawn)
    assert code == 0, err
    lengths = [request["prompt_tokens"] for request in json.loads(out)["requests"]]
    assert len(lengths) == 7
    assert len(set(lengths)) > 3
    assert all(200 <= length <= 900 for length in lengths)
    code, out, err = farspan(capsys, monkeypatch, "bench", "--url", recall.url, "--run", tmp_path / "none")
    assert (code, out) == (2, "")
    assert "--contexts 10k,100k or --length-distribution" in err


def test_vllms_infinite_rate_is_a_closed_loop(run: Any) -> None:
    code, out, _ = run("--request-rate", "inf", "--num-prompts", 3, "--json")
    assert code == 0
    summary = json.loads(out)
    assert len(summary["requests"]) == 3
    assert summary["rate"] is None
