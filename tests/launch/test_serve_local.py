"""`farspan serve` on this machine with the real built-in engine, as programs of their own: ready, stopped, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from farspan.launch.local import find_free_port
from farspan.models.probe import write_probe
from processes import started_with

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "recall"
    return write_probe(folder, num_attention_heads=2, num_key_value_heads=2).folder


class Farspan:
    """The farspan program with a state folder of its own."""

    def __init__(self, state: Path, checkpoint: Path) -> None:
        self.state = state
        self.checkpoint = checkpoint
        self.port = find_free_port()
        self.environment = {**os.environ, "PYTHONPATH": str(SOURCE), "XDG_STATE_HOME": str(state)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "farspan", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def serve(self, *arguments: str) -> tuple[str, ...]:
        own = ("--engine", "builtin", "--runtime", "local", "--gpus", "none", "--name", "recall")
        return ("serve", str(self.checkpoint), *own, "--context", "32k", "--port", str(self.port), *arguments)

    def processes(self) -> list[psutil.Process]:
        """Every process this state folder's servers consist of, guards included."""
        return started_with("farspan.builtin", str(self.checkpoint), str(self.port))

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + 60
        while self.processes():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.05)

    def wait_until(self, state: str) -> dict[str, Any]:
        record = self.state / "farspan" / "servers" / "recall.json"
        deadline = time.monotonic() + 300
        while True:
            if record.exists():
                found: dict[str, Any] = json.loads(record.read_text())
                if state == "started" or found["ready_s"] is not None:
                    return found
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def farspan(tmp_path: Path, checkpoint: Path) -> Farspan:
    return Farspan(tmp_path / "state", checkpoint)


def test_detached_it_answers_outlives_and_is_stopped(farspan: Farspan) -> None:
    farspan.environment["MY_KEY"] = "k-verysecret"
    code, out, err = farspan.run(*farspan.serve("--detach", "--json", "--api-key-env", "MY_KEY"))
    assert code == 0, err
    document = json.loads(out)
    assert document["ready_s"] > 0
    assert document["server"]["url"] == f"http://127.0.0.1:{farspan.port}"
    assert len(farspan.processes()) == 2  # the guard and the server, farspan itself is gone
    for process in farspan.processes():
        assert "k-verysecret" not in " ".join(process.cmdline())
    assert not any(
        "verysecret" in path.read_text() for path in (farspan.state / "farspan" / "servers").iterdir()
    )

    code, out, err = farspan.run("status")
    assert code == 0, err
    assert out.splitlines()[1].split()[:3] == ["recall", "ready", "local"]
    code, out, _ = farspan.run("logs", "recall")
    assert code == 0
    assert "farspan built-in engine" in out
    code, _, err = farspan.run(*farspan.serve("--detach", "--api-key-env", "MY_KEY"))
    assert code == 2
    assert "is there already" in err
    code, _, err = farspan.run(*farspan.serve("--detach", "--name", "other"))
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{farspan.port}" in err
    assert farspan.run("stop")[0] == 0
    assert farspan.processes() == []
    assert "no server" in farspan.run("status")[1]


def test_odd_names_of_folders_and_models_reach_the_process_as_they_are(
    tmp_path: Path, checkpoint: Path
) -> None:
    odd = "a  b 'c' \"$(id)\" `id` ;#&|<>*?! {0} %s $HOME ~ back\\slash zażółć \U0001f680"
    folder = tmp_path / "--port=1" / odd
    folder.parent.mkdir()
    folder.symlink_to(checkpoint, target_is_directory=True)
    farspan = Farspan(tmp_path / f"state of {odd}", folder)
    code, out, err = farspan.run(*farspan.serve("--detach", "--json", "--served-model-name", odd))
    try:
        assert code == 0, err
        url = json.loads(out)["server"]["url"]
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == odd
        words = next(process.cmdline() for process in farspan.processes() if odd in process.cmdline())
        assert str(folder) in words
    finally:
        assert farspan.run("stop")[0] == 0
    assert farspan.processes() == []


def test_in_the_foreground_it_does_not_outlive_farspan_killed(farspan: Farspan) -> None:
    process = farspan.start(*farspan.serve())
    try:
        farspan.wait_until("ready")
        assert len(farspan.processes()) == 2  # the guard and the server
    finally:
        process.kill()
        process.communicate()
    farspan.wait_until_gone()
    code, out, _ = farspan.run("status")
    assert code == 1
    assert "gone" in out  # killed, it could not forget the server; status sees that it is not there
    assert farspan.run("stop")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_while_it_starts_nothing_stays_even_detached(farspan: Farspan, number: signal.Signals) -> None:
    process = farspan.start(*farspan.serve("--detach"))
    farspan.wait_until("started")
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    farspan.wait_until_gone()
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "Traceback" not in err
        assert list((farspan.state / "farspan" / "servers").glob("*.json")) == []


def test_a_server_that_is_killed_is_noticed(farspan: Farspan) -> None:
    process = farspan.start(*farspan.serve())
    try:
        farspan.wait_until("ready")
        server = max(farspan.processes(), key=lambda one: one.create_time())
        server.kill()
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "the server ended with status 137 after it had been ready" in err
    farspan.wait_until_gone()


def test_a_start_that_must_fail_shows_why(farspan: Farspan) -> None:
    code, _, err = farspan.run(*farspan.serve("--", "--dtype", "float8"))
    assert code == 1
    assert "recall: the server ended with status 2" in err
    assert "'float8' is not one of" in err
    assert farspan.processes() == []


def test_flags_that_contradict_the_context(farspan: Farspan) -> None:
    code, _, err = farspan.run(*farspan.serve("--dry-run", "--", "--max-model-len", "1000"))
    assert code == 2
    assert "--max-model-len 1000 is below --context 32000" in err


def test_a_cpu_gets_what_a_cpu_can_serve(farspan: Farspan) -> None:
    code, _, err = farspan.run(*farspan.serve("--dry-run", "--context", "2Mi"))
    assert code == 2
    assert "a context of 2Mi is above the 1Mi tokens recall was made for" in err
    assert farspan.run(*farspan.serve("--dry-run", "--context", "2Mi", "--force"))[0] == 0
    image = farspan.serve("--dry-run", "--engine", "vllm", "--runtime", "docker")
    code, _, err = farspan.run(*image)
    assert code == 2
    assert "the public image of vllm needs a GPU" in err
    code, out, _ = farspan.run(*image, "--image", "cpu/vllm:1", "--engine-version", "0.24.0")
    assert code == 0
    assert "--gpus" not in out.split()


def test_a_dry_run_shows_the_command(farspan: Farspan) -> None:
    code, out, _ = farspan.run(*farspan.serve("--dry-run", "--json"))
    assert code == 0
    argv = json.loads(out)["argv"]
    assert argv[1:4] == ["-m", "farspan.builtin", str(farspan.checkpoint)]
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert farspan.processes() == []
    assert not (farspan.state / "farspan" / "servers" / "recall.json").exists()
