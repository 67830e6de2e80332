"""`farspan prove` with a real vLLM on the CPU and the built-in engine in turn, killed in between; one cannot start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farspan.measurement.runs.run_folder import load_run
from farspan.models.probe import write_probe
from processes import family_of, started_with
from served import ENVIRONMENT

pytestmark = pytest.mark.engines


def test_two_engines_in_turn_and_one_that_does_not_start(engines_python: Path, tmp_path: Path) -> None:
    checkpoint = write_probe(tmp_path / "recall", num_attention_heads=2, num_key_value_heads=2).folder
    out = tmp_path / "out"
    words = (
        "prove", str(checkpoint), "--engines", "vllm,builtin,broken=vllm", "--python",
        f"vllm={engines_python}", "--python", f"broken={engines_python}",
        "--flags", "vllm=--enforce-eager --dtype float32", "--flags", "broken=--enforce-eager --dtype float7",
        "--runtime", "local", "--gpus", "none", "--contexts", "1k,2k", "--depths", "0.1,0.9", "--output-tokens", "16",
        "--concurrency", "3", "--port", "0", "-o", str(out), "--json",
    )  # fmt: skip
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "farspan", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    first = start()
    deadline = time.monotonic() + 400
    results = out / "vllm" / "requests.jsonl"
    while not (results.exists() and results.read_bytes()):
        assert time.monotonic() < deadline
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.05)
    family = family_of(started_with(str(checkpoint), "--enforce-eager"))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    while any(process.is_running() for process in family):
        assert time.monotonic() < deadline, "the server outlived farspan"
        time.sleep(0.1)

    second = start()
    printed, err = second.communicate(timeout=600)
    assert second.returncode == 1, err
    engines = {engine["name"]: engine for engine in json.loads(printed)["engines"]}
    assert engines["vllm"]["good"], engines["vllm"]
    assert engines["vllm"]["starts"] == 2
    assert engines["builtin"]["good"], engines["builtin"]
    assert not engines["broken"]["good"]
    assert "did not start" in engines["broken"]["outcome"]
    for name in ("vllm", "builtin"):
        answers = load_run(out / name).results
        assert len(answers) == 4 + 3
        assert all(result.score == 1.0 for result in answers)
    assert not started_with(str(checkpoint))
    page = (out / "report.md").read_text()
    assert "vLLM" in page
    assert "not proven: did not start" in page
