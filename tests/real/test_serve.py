"""`farspan serve` with a real vLLM on the CPU: ready, killed, and a start that must fail and be explained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from farspan.launch.local import find_free_port
from farspan.models.probe import write_probe
from processes import family_of, runs, started_with
from served import ENVIRONMENT

pytestmark = pytest.mark.engines
KEY = "k-verysecret"


class Serve:
    """farspan with a state folder and a checkpoint of its own."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder = folder
        self.checkpoint = write_probe(folder / "recall", num_attention_heads=2, num_key_value_heads=2).folder
        self.port = find_free_port()
        self._python = python
        self._environment = {
            **os.environ,
            **ENVIRONMENT,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "XDG_STATE_HOME": str(folder / "state"),
            "MY_KEY": KEY,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "farspan", *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    def serve(self, context: str, *arguments: str) -> tuple[str, ...]:
        where = (
            "--runtime",
            "local",
            "--gpus",
            "none",
            "--python",
            str(self._python),
            "--port",
            str(self.port),
        )
        flags = ("--", "--enforce-eager", "--dtype", "float32")
        own = ("--engine", "vllm", "--name", "recall", "--context", context, "--api-key-env", "MY_KEY")
        return ("serve", str(self.checkpoint), *own, *where, *arguments, *flags)

    @property
    def record(self) -> Path:
        return self.folder / "state" / "farspan" / "servers" / "recall.json"

    def family(self) -> list[psutil.Process]:
        """Every process with the server's name or working for one that has it."""
        return family_of(started_with(str(self.checkpoint)))


@pytest.fixture(scope="module")
def serve(engines_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    return Serve(tmp_path_factory.mktemp("serve"), engines_python)


def wait_until_gone(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not [one for one in alive if runs(one)]


def test_ready_found_again_and_stopped(serve: Serve) -> None:
    code, out, err = serve.run(*serve.serve("32k", "--detach", "--json"))
    assert code == 0, err
    document = json.loads(out)
    phases = {phase["name"]: phase for phase in document["phases"]}
    assert phases["weights"]["done"] is True
    assert document["server"]["version"] != ""
    family = serve.family()
    assert family
    assert not any(KEY in " ".join(process.cmdline()) for process in family)
    assert KEY not in Path(document["server"]["log"]).read_text() + serve.record.read_text()
    code, out, err = serve.run("status", "--json")
    assert code == 0, out + err
    assert json.loads(out)[0]["state"] == "ready"
    assert serve.run("stop")[0] == 0
    wait_until_gone(family)


@pytest.mark.parametrize("victim", ["server", "farspan"])
def test_killed_nothing_stays(serve: Serve, victim: str) -> None:
    serve.run("stop", "--all")
    assert not serve.record.exists()
    process = serve.start(*serve.serve("32k"))
    deadline = time.monotonic() + 400
    try:
        while not serve.record.exists() or json.loads(serve.record.read_text())["ready_s"] is None:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        family = serve.family()
        assert len(family) >= 3  # the guard, the API server, the engine's process
        if victim == "farspan":
            process.kill()
        else:
            (guard,) = [one for one in family if "guard.py" in " ".join(one.cmdline())]
            guard.children()[0].send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    wait_until_gone(family)
    if victim == "server":
        assert process.returncode == 1
        assert "the server ended with status 137" in err
    status = serve.run("status")
    assert status[0] == 1
    assert ("gone" if victim == "farspan" else "failed") in status[1], "its record stays until farspan stop"


def test_a_context_too_long_is_explained(serve: Serve) -> None:
    # 1,048,576 tokens take 1 GiB in the full layer alone, and all layers have 1 GiB.
    code, _, err = serve.run(*serve.serve("1Mi"))
    assert code == 1, err
    # A busy machine may find the engine dead in the log before its API server has ended.
    assert "recall: the server ended" in err or "recall: the engine has died" in err
    assert "vllm-context-too-long" in err
    assert "fix:" in err
    assert "line " in err
    assert not serve.family()
