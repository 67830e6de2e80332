from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from farspan.engines.command import EngineCommand
from farspan.errors import InputError, LaunchError
from farspan.launch.runtimes.process import LocalRuntime
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.run_folder import load_run
from farspan.proof import demo
from farspan.proof.demo import DemoOptions, predict_seconds, run_demo
from processes import started_with
from samples import make_result

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED = ROOT / "tests" / "support" / "scripted_main.py"
SMALL = (600, 9000)  # the second one is longer than a chunk of the checkpoint's local attention


def servers_in(folder: Path) -> list[psutil.Process]:
    """List the processes that were started for a demo in this folder."""
    return started_with(str(folder / "recall"))


def serve_by(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Let the demo's server be another Python program; PORT among its arguments is the port it must listen on."""
    real = demo._prepare_server

    def prepare(checkpoint: Path) -> LocalRuntime:
        launch = real(checkpoint).launch
        words = tuple(str(launch.port) if word == "PORT" else word for word in arguments)
        return LocalRuntime(replace(launch, command=EngineCommand((sys.executable, *words), ())))

    monkeypatch.setattr(demo, "_prepare_server", prepare)


def start_demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "farspan", "demo", "-o", str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_server(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while len(servers_in(folder)) < 2:  # the guard and the server
        assert time.monotonic() < deadline, "the demo's server did not start"
        time.sleep(0.02)


def test_a_demo_proves_its_contexts_and_leaves_nothing_running(tmp_path: Path) -> None:
    process = start_demo(tmp_path / "out", "--contexts", ",".join(map(str, SMALL)), "--json")
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert document["good"] is True
    requests = document["bench"]["requests"]
    assert sorted((r["context"], r["depth"]) for r in requests) == [(c, d) for c in SMALL for d in (0.1, 0.9)]
    assert all(r["prompt_tokens"] == r["context"] for r in requests)
    assert all(r["cached_tokens"] == 0 and r["score"] == 1.0 for r in requests)
    assert all(r["ttft_s"] > 0 and r["tpot_s"] > 0 for r in requests)
    page = Path(document["report"]["html"]).read_text()
    assert "Every request was answered correctly; contexts are proven up to 9k tokens." in page
    assert servers_in(tmp_path / "out") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["starting", "sending"])
def test_however_it_is_ended_no_process_stays(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    folder = tmp_path / "out"
    process = start_demo(folder, "--contexts", "300,200k", "--time-limit", "600")
    try:
        wait_for_server(folder)
        if moment == "sending":
            deadline = time.monotonic() + 60
            while not (folder / "run" / "requests.jsonl").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    assert "Traceback" not in err
    deadline = time.monotonic() + 15
    while servers_in(folder):
        assert time.monotonic() < deadline, f"still there: {servers_in(folder)}"
        time.sleep(0.05)


async def test_a_server_that_dies_is_one_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_by(monkeypatch, "-c", "print('no room for the weights'); raise SystemExit(7)")
    with pytest.raises(LaunchError, match="status 7") as caught:
        await run_demo(DemoOptions(tmp_path / "out", (600,)))
    assert caught.value.tail == ("no room for the weights",)


async def test_a_wrong_answer_fails_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_by(monkeypatch, str(SCRIPTED), "PORT", "Wrong ")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTED.parent))
    outcome = await run_demo(DemoOptions(tmp_path / "out", (600,)))
    assert not outcome.bench.good
    assert {result.status for result in outcome.bench.results} == {Status.WRONG_ANSWER}
    assert outcome.report.html.exists()
    assert outcome.extra == ""


async def test_the_long_context_is_added_when_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_by(monkeypatch, str(SCRIPTED), "PORT")
    monkeypatch.setattr(demo, "DEFAULT_CONTEXTS", (600, 700))
    monkeypatch.setattr(demo, "EXTRA_CONTEXT", 1000)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTED.parent))
    outcome = await run_demo(DemoOptions(tmp_path / "a"))
    assert outcome.bench.good
    assert {result.context for result in outcome.bench.results} == {600, 700, 1000}
    assert len({result.seed for result in load_run(tmp_path / "a" / "run").results}) == 1

    monkeypatch.setattr(demo, "EXTRA_CONTEXT", 500_000_000)
    outcome = await run_demo(DemoOptions(tmp_path / "b"))
    assert outcome.bench.good
    assert {result.context for result in outcome.bench.results} == {600, 700}
    assert outcome.extra.startswith("500M needs about")


async def test_what_nobody_asked_for_does_not_decide_when_time_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_by(monkeypatch, str(SCRIPTED), "PORT", "", "3000")
    monkeypatch.setattr(demo, "DEFAULT_CONTEXTS", (600, 5000))
    monkeypatch.setattr(demo, "_REPORT_S", 0.0)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTED.parent))
    outcome = await run_demo(DemoOptions(tmp_path / "out", time_limit_s=20.0))
    assert outcome.good
    assert outcome.left_out == (5000,)
    assert {result.context for result in outcome.bench.results} == {600}
    assert outcome.server_tail == ()
    page = outcome.report.html
    assert page is not None
    assert "timed" not in page.read_text()

    asked = await run_demo(DemoOptions(tmp_path / "asked", (5000,), time_limit_s=5.0))
    assert not asked.good
    assert {result.status for result in asked.bench.results} == {Status.TIMED_OUT}


async def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="not empty"):
        await run_demo(DemoOptions(tmp_path))


def test_times_are_predicted_from_the_two_longest_contexts() -> None:
    def seconds(n: int) -> float:
        return 1e-4 * n + 1e-9 * n * n

    results = [make_result(context=n, e2e_s=seconds(n)) for n in (4000, 16_000, 64_000)]
    assert predict_seconds(results, 128_000) == pytest.approx(seconds(128_000))
    assert predict_seconds(results[:1], 8000) == pytest.approx(4 * seconds(4000))
    assert predict_seconds([], 8000) == float("inf")
    flat = [make_result(context=n, e2e_s=1.0) for n in (4000, 8000)]
    assert predict_seconds(flat, 16_000) == pytest.approx(2.0)
    steep = [make_result(context=n, e2e_s=(n / 4000) ** 3) for n in (4000, 8000)]
    assert predict_seconds(steep, 16_000) == pytest.approx(32.0)
