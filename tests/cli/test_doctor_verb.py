"""`farspan doctor` as scripts see it: the keys of its JSON, its exit codes, its first line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "tests" / "evidence"
REAL = EVIDENCE / "real"


def doctor(*words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "farspan", "doctor", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, input=data, capture_output=True, env=environment, check=False, timeout=60)


def test_json_of_a_failed_start() -> None:
    done = doctor(str(REAL / "sglang-0.5.16-scout-shard-oom.log"), "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert list(report) == ["engine", "version", "timeline", "capacity", "findings", "noise"]
    finding = report["findings"][0]
    assert finding["id"] == "sglang-pool-oom"
    assert finding["severity"] == "error"
    assert finding["evidence"]["line"] == 78
    assert finding["fix"][0].startswith("--max-running-requests 8")
    assert set(finding) >= {"id", "severity", "cause", "evidence", "fix", "confidence"}
    assert report["capacity"]["full_layer_tokens"] == 6_182_480
    assert [entry["phase"] for entry in report["timeline"]] == [
        "config",
        "distributed",
        "weights",
        "kv",
        "died",
    ]
    assert {"syntax-warning", "rope-parameters"} <= {noise["id"] for noise in report["noise"]}


def test_a_pipe_and_exit_code_0() -> None:
    done = doctor("-", data=(REAL / "vllm-0.24.0-scout-shard.log").read_bytes())
    assert done.returncode == 0
    first = done.stdout.decode().split("\n")[0]
    assert first == "vllm 0.24.0 served and was stopped. Nothing is wrong."


def test_a_warning_is_no_failure() -> None:
    assert doctor(str(EVIDENCE / "open-to-strangers.log")).returncode == 0


@pytest.mark.parametrize("data", [b"", b"the cat sat on the mat\n" * 50, bytes(range(256)) * 20])
def test_not_a_log(data: bytes) -> None:
    done = doctor("-", "--json", data=data)
    assert done.returncode == 2
    assert json.loads(done.stdout)["engine"] == ""


def test_bad_input_is_one_line() -> None:
    done = doctor("/nowhere/x.log")
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert "cannot be read" in done.stderr.decode()


def test_what_the_user_knows_goes_to_the_planner() -> None:
    log = (REAL / "sglang-0.5.16-scout-shard-oom.log").read_bytes().replace(b"tp_size=1,", b"tp_size=8,")
    done = doctor(
        "-", "--model", "llama-4-scout", "--gpus", "8xH200", "--engine-version", "0.5.16", "--json", data=log
    )
    report = json.loads(done.stdout)
    assert report["version"] == "0.5.16"
    assert any("tokens at once" in step for step in report["findings"][0]["fix"])
