"""`farspan serve` and its siblings through a played docker, from the command line to the container's end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from farspan.cli.main import group
from farspan.engines.registry import get_engine
from farspan.errors import UnsupportedError
from farspan.launch.docker import docker_failure_fix
from farspan.launch.local import find_free_port
from farspan.launch.server_records import StateFolder
from played import Fakes

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"
STARTED = EVIDENCE / "real" / "vllm-0.24.0-scout-shard.log"
SCOUT = ("serve", "llama-4-scout", "--gpus", "8xH200", "--offline")


def farspan(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments, standalone_mode=False)  # as the farspan program does


def serve(*arguments: str) -> Result:
    return farspan(*SCOUT, "--name", "scout", "--context", "1M", "--detach", *arguments)


def dry(*arguments: str) -> dict[str, Any]:
    done = farspan(*SCOUT, "--dry-run", "--json", *arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_the_known_pair(fakes: Fakes) -> None:
    found = dry("--context", "10M", "--engine", "vllm", "--engine-version", "0.12.0")
    argv = found["argv"]
    assert argv[:6] == [
        "docker",
        "run",
        "--detach",
        "--init",
        "--name",
        "llama-4-scout-17b-16e-instruct-vllm",
    ]
    assert option(argv, "--gpus") == "8"
    assert option(argv, "--shm-size") == "11g"
    assert option(argv, "--publish") == "127.0.0.1:8000:8000"
    assert option(argv, "--ulimit") == "memlock=-1"
    begin = argv.index("--entrypoint")
    assert argv[begin : begin + 5] == [
        *("--entrypoint", "vllm", "vllm/vllm-openai:v0.12.0", "serve"),
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    ]
    assert option(argv, "--max-model-len") == "10000000"
    assert "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE=1" in argv
    assert found["plan"]["fits"] is True
    assert fakes.calls == []  # a dry run calls nobody
    known = ("--engine", "sglang", "--engine-version", "0.5.6.post2")
    sglang = dry("--context", "2M", *known)["argv"]
    begin = sglang.index("--entrypoint")
    assert sglang[begin + 1 : begin + 5] == [
        "python3",
        "lmsysorg/sglang:v0.5.6.post2-runtime",
        "-m",
        "sglang.launch_server",
    ]
    assert option(sglang, "--max-running-requests") == "8"
    newer = dry("--context", "10M", "--engine", "sglang", "--engine-version", "0.5.23")["argv"]
    assert "lmsysorg/sglang:v0.5.23-runtime" in newer
    assert option(newer, "--swa-full-tokens-ratio") == "0.05"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_without_a_version_the_image_is_of_the_one_that_plan_means(fakes: Fakes, engine: str) -> None:
    newest = get_engine(engine).newest_version
    found = dry("--context", "10M", "--engine", engine)
    assert found["version"] == newest
    assert get_engine(engine).image(newest) in found["argv"]
    asked = (*SCOUT[1:], "--engine", engine, "--context", "10M", "--json")
    planned = json.loads(farspan("plan", *asked).stdout)["engines"][engine]
    assert planned["version"] == newest
    assert planned["fits"] is found["plan"]["fits"] is True


def test_options_reach_docker(fakes: Fakes, tmp_path: Path) -> None:
    argv = dry(
        *("--context", "1M", "--devices", "0,1,2,3,4,5,6,7", "--shm-gib", "40", "--port", "9001"),
        *(
            "--docker-arg",
            "--privileged",
            "--compile-cache",
            str(tmp_path / "cc"),
            "--served-model-name",
            "s",
        ),
    )["argv"]
    assert option(argv, "--gpus") == '"device=0,1,2,3,4,5,6,7"'
    assert option(argv, "--shm-size") == "40g"
    assert option(argv, "--publish") == "127.0.0.1:9001:8000"
    assert "--privileged" in argv
    assert f"{tmp_path / 'cc'}:/root/.cache/vllm" in argv
    assert option(argv, "--served-model-name") == "s"
    refused = farspan(*SCOUT, "--dry-run", "--engine", "sglang", "--compile-cache", str(tmp_path))
    assert isinstance(refused.exception, UnsupportedError)
    assert "sglang keeps no compiled kernels" in str(refused.exception)
    several = dry("--context", "1M", "--nodes", "2", "--node-rank", "1", "--head", "10.0.0.1", "--tp", "8")[
        "argv"
    ]
    assert option(several, "--network") == "host"
    assert "--publish" not in several
    assert option(several, "--gpus") == "4"
    assert "--headless" in several


def test_from_start_to_stop(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("MY_KEY", "k-verysecret")
    fakes.play(log=STARTED)
    port = find_free_port()
    done = serve(
        "--port", str(port), "--context", "5Mi", "--api-key-env", "MY_KEY", "--engine-version", "0.24.0"
    )
    assert done.exit_code == 0, done.output
    assert f"scout answers at http://127.0.0.1:{port} after" in done.stderr
    assert "weights, GiB a GPU: 27.6" in done.stderr
    assert "LESS THAN PLANNED" not in done.stderr
    (run,) = fakes.argv("docker", "run")
    names = [run[i + 1] for i, word in enumerate(run) if word == "--env"]
    assert "HF_TOKEN" in names
    assert "VLLM_API_KEY" in names
    (call,) = [call for call in fakes.calls if call["argv"][1] == "run"]
    assert call["secrets"] == {"HF_TOKEN": "hf_verysecret", "VLLM_API_KEY": "k-verysecret"}

    told = [json.dumps(one["argv"]) + one["stdin"] for one in fakes.calls] + [done.output]
    told += [path.read_text() for path in StateFolder().folder.iterdir()]
    assert not any("verysecret" in text for text in told)

    status = farspan("status", "--json")
    (found,) = json.loads(status.stdout)
    assert (found["name"], found["runtime"], found["container"]) == ("scout", "docker", "scout")
    assert found["state"] in ("ready", "not answering")  # the scripted server has no /health
    assert farspan("stop").exit_code == 0
    assert fakes.argv("docker", "stop") == [["docker", "stop", "--time", "30", "scout"]]
    assert fakes.argv("docker", "rm") == [["docker", "rm", "--force", "scout"]]
    assert StateFolder().records() == []


def test_a_container_of_that_name(fakes: Fakes) -> None:
    fakes.play(log=STARTED)
    ports = [str(find_free_port()) for _ in range(2)]
    assert serve("--port", ports[0]).exit_code == 0
    refused = serve("--port", ports[0])
    assert refused.exit_code != 0
    assert "is there already" in str(refused.exception)
    reused = serve("--port", ports[0], "--if-exists", "reuse")
    assert reused.exit_code == 0, reused.output
    assert len(fakes.argv("docker", "run")) == 1
    differs = serve("--port", ports[1], "--if-exists", "reuse")
    assert "started differently" in str(differs.exception)
    replaced = serve("--port", ports[1], "--if-exists", "replace")
    assert replaced.exit_code == 0, replaced.output
    assert len(fakes.argv("docker", "run")) == 2
    assert len(fakes.argv("docker", "rm")) == 1


def test_a_start_that_fails_is_diagnosed_and_leaves_nothing(fakes: Fakes) -> None:
    fakes.play(log=EVIDENCE / "vllm-context-too-long.log", exit_status=1)
    done = serve("--port", str(find_free_port()))
    assert done.return_value == 1
    assert "scout: the server ended with status 1" in done.stderr
    assert "vllm-context-too-long" in done.stderr
    assert "fix:" in done.stderr
    assert fakes.argv("docker", "rm") == [["docker", "rm", "--force", "scout"]]
    (record,) = StateFolder().records()
    assert record.failed.startswith("the server ended with status 1")
    assert StateFolder().log_path("scout").read_text() == (EVIDENCE / "vllm-context-too-long.log").read_text()
    shown = farspan("status")
    assert shown.return_value == 1
    assert "failed" in shown.stdout
    assert "farspan stop scout forgets it" in shown.stdout
    assert farspan("logs").stdout == (EVIDENCE / "vllm-context-too-long.log").read_text()
    assert "did not start" in str(farspan("bench", "scout", "--contexts", "1k").exception)
    assert fakes.argv("docker", "logs", "scout") == []
    farspan("stop", "scout")
    assert StateFolder().records() == []
    assert len(fakes.argv("docker", "rm")) == 1


def test_a_container_that_cannot_start_does_not_stay(fakes: Fakes) -> None:
    fakes.refuses_to_run()
    done = serve("--port", str(find_free_port()))
    assert "could not select device driver" in str(done.exception)
    assert "NVIDIA Container Toolkit" in str(done.exception)
    assert fakes.argv("docker", "rm") == [["docker", "rm", "--force", "scout"]]
    assert not (fakes.folder / "container.json").exists()


@pytest.mark.parametrize("pulling", [True, False])
def test_farspan_killed_leaves_no_container(fakes: Fakes, pulling: bool) -> None:
    fakes.play(log=STARTED, pull_s=600 if pulling else 0)
    source = Path(__file__).resolve().parents[2] / "src"
    words = (*SCOUT, "--name", "scout", "--context", "1M", "--port", str(find_free_port()))
    process = subprocess.Popen(
        [sys.executable, "-m", "farspan", *words],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        seen = "run" if pulling else "logs"  # its log is followed once it has been started
        _wait(lambda: fakes.argv("docker", seen))
    finally:
        process.kill()
        process.wait()
    _wait(lambda: fakes.argv("docker", "rm"))
    ((*_, name),) = fakes.argv("docker", "rm")
    assert name == ("scout" if pulling else "4f1c" * 16)
    _wait(lambda: not _working_for(fakes))
    assert not (fakes.folder / "container.json").exists()


def _wait(condition: Callable[[], object], limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _working_for(fakes: Fakes) -> list[psutil.Process]:
    """The played docker's own processes, and those that guard or follow them."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.environ().get("FAKE_FOLDER") == str(fakes.folder) and "docker" in one.cmdline():
                found.append(one)
    return found


def test_docker_that_does_not_answer(fakes: Fakes) -> None:
    fakes.breaks()
    done = serve()
    assert "docker does not answer: Cannot connect to the Docker daemon" in str(done.exception)


def test_no_docker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert "docker is not on PATH" in str(serve().exception)


def test_what_is_open_to_the_world_is_said(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    (warning, *_) = dry("--context", "1M", "--host", "0.0.0.0")["warnings"]
    assert "open to every machine" in warning
    assert "--api-key-env VLLM_API_KEY" in warning
    monkeypatch.setenv("MY_KEY", "k")
    found = dry("--context", "1M", "--host", "0.0.0.0", "--api-key-env", "MY_KEY")
    assert "without encryption" in found["warnings"][0]
    assert found["secret_env"] == ["VLLM_API_KEY"]
    assert "VLLM_API_KEY" in found["env_names"]
    assert not any("open to" in warning for warning in dry("--context", "1M")["warnings"])
    missing = farspan(*SCOUT, "--dry-run", "--api-key-env", "NO_SUCH_KEY")
    assert "NO_SUCH_KEY is not set" in str(missing.exception)


def test_logs_come_from_docker(fakes: Fakes) -> None:
    fakes.play(log=EVIDENCE / "vllm-context-too-long.log")
    assert serve("--port", str(find_free_port())).exit_code == 0
    shown = farspan("logs", "-n", "5")
    assert fakes.argv("docker", "logs")[-1] == ["docker", "logs", "--tail", "5", "scout"]
    assert "EngineCore failed to start" in shown.output
    assert os.environ["FAKE_FOLDER"] == str(fakes.folder)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("nvidia-container-cli: initialization error: load library failed", "NVIDIA Container Toolkit"),
        ("driver failed programming: Bind for 0.0.0.0:8000 failed: port is already allocated", "--port"),
        ("permission denied while trying to connect to unix:///var/run/docker.sock", "docker group"),
        ("manifest for vllm/vllm-openai:v9 not found: manifest unknown", "name and tag"),
        ("write /var/lib/docker/tmp/x: no space left on device", "docker system df"),
        ("something else", "docker run --help"),
    ],
)
def test_what_docker_refuses_has_a_way_out(words: str, hint: str) -> None:
    assert hint in docker_failure_fix(words)


def test_what_explains_the_plan_is_a_note(fakes: Fakes) -> None:
    found = dry("--context", "10M")
    assert any("figures are for the whole server" in note for note in found["notes"])
    assert not any("figures are for the whole server" in warning for warning in found["warnings"])
    assert any("this plan sets --max-num-seqs" in warning for warning in found["warnings"])
    done = farspan(*SCOUT, "--dry-run", "--context", "10M")
    assert "note: The figures are for the whole server" in done.stderr
    assert "! With the default --max-num-seqs" in done.stderr
