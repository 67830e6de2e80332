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


LINE = (
    "INFO 12-18 14:37:28 [loggers.py:236] Engine 000: Avg prompt throughput: 637856.3 tokens/s, Avg generation "
    "throughput: 1.7 tokens/s, Running: 1 reqs, Waiting: 0 reqs, GPU KV cache usage: 41.3%, Prefix cache hit rate: 0.0%"
)


def test_a_pasted_line_is_read_itself() -> None:
    for pasted in (LINE, f"{LINE}\n{LINE}\n", f"{LINE}\n" * 200):
        done = doctor(pasted)
        assert done.returncode == 0
        assert b"6,378,563 prompt tokens" in done.stdout
    missing = doctor("my log.txt")
    assert missing.returncode == 2
    assert b"my log.txt cannot be read (No such file or directory)" in missing.stderr


def test_a_redirected_file_needs_no_dash_and_a_pipe_is_told_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(LINE + "\n")
    command = [sys.executable, "-m", "farspan", "doctor"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with (tmp_path / "a.log").open("rb") as log:
        done = subprocess.run(
            command, stdin=log, capture_output=True, env=environment, check=False, timeout=60
        )
    assert b"6,378,563 prompt tokens" in done.stdout
    piped = doctor(data=LINE.encode())
    assert piped.returncode == 2
    assert b"give a log (- for a pipe)" in piped.stderr
