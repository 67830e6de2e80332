"""The server and the engine are two processes: each tells the truth of the other, and neither outlives it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from builtin_server import address, engine_of, post, start, suspended

LONG = {"prompt": [20, 21, 22], "max_tokens": 15_000, "ignore_eos": True}


def wait_until_busy(url: str) -> None:
    deadline = time.monotonic() + 60
    while 'num_requests_running{model_name="probe"} 0.0' in httpx.get(f"{url}/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_clients_hear_of_an_engine_that_was_killed(probe_folder: Path, stream: bool) -> None:
    process = start(probe_folder)
    try:
        url = address(process)
        replies: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: replies.append(post(url, "/v1/completions", {**LONG, "stream": stream}))
        )
        asking.start()
        wait_until_busy(url)
        engine_of(process).kill()
        asking.join(timeout=60)
        assert not asking.is_alive()
        # A stream that has begun says it as its last event.
        assert replies[0].status_code == (200 if stream else 500)
        assert "the engine has stopped" in replies[0].text
        assert httpx.get(f"{url}/health").status_code == 503
        assert post(url, "/v1/completions", {"prompt": [5, 6], "max_tokens": 1}).status_code == 500
        assert httpx.get(f"{url}/metrics").status_code == 500
        assert httpx.get(f"{url}/v1/models").status_code == 200
    finally:
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert "the engine has ended (-9)" in said


def test_health_does_not_wait_for_a_step(probe_folder: Path) -> None:
    process = start(probe_folder)
    try:
        url = address(process)
        with suspended(engine_of(process)):  # a step that takes for ever
            for _ in range(20):
                assert httpx.get(f"{url}/health", timeout=60).status_code == 200
            # What it is asked meanwhile is answered when it goes on.
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    f"{url}/v1/completions",
                    json={"prompt": [5], "max_tokens": 1},
                    timeout=httpx.Timeout(60, read=0.5),
                )
        assert post(url, "/v1/completions", {"prompt": [5, 6], "max_tokens": 1}).status_code == 200
    finally:
        process.terminate()
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("number", "loaded"),
    [(signal.SIGTERM, True), (signal.SIGKILL, True), (signal.SIGINT, False), (signal.SIGKILL, False)],
)
def test_nothing_is_left_behind(probe_folder: Path, number: signal.Signals, loaded: bool) -> None:
    process = start(probe_folder)
    if loaded:
        address(process)
    engine = engine_of(process)
    children = psutil.Process(process.pid).children()
    process.send_signal(number)
    process.wait(timeout=60)
    _, alive = psutil.wait_procs([engine, *children], timeout=60)
    assert not alive


def test_an_engine_in_a_step_without_end_holds_up_no_shutdown(probe_folder: Path) -> None:
    process = start(probe_folder)
    address(process)
    engine = engine_of(process)
    engine.suspend()
    process.terminate()
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)
    psutil.wait_procs([engine], timeout=60)
    assert not engine.is_running()


def test_signals_to_the_group_let_the_server_end_in_order(probe_folder: Path, tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches every process; who streams hears the end from the server."""
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "farspan.builtin", str(probe_folder), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    url = address(process)
    host, port = url.removeprefix("http://").split(":")
    assert post(url, "/v1/completions", {"prompt": "user", "max_tokens": 1}).status_code == 200
    with socket.create_connection((host, int(port))):
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) in (0, 130, -signal.SIGINT)
    assert "Traceback" not in log.read_text()
    assert not [one for one in psutil.process_iter() if _group(one.pid) == process.pid]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def test_an_engine_that_dies_while_it_loads_ends_the_start(probe_folder: Path) -> None:
    process = start(probe_folder)
    engine_of(process).kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "the engine's process ended while it loaded (signal 9)" in said
    assert "Traceback" not in said


def test_the_key_is_in_no_other_process(probe_folder: Path) -> None:
    process = start(probe_folder, FARSPAN_API_KEY="open-sesame-4711")
    try:
        url = address(process)
        headers = {"Authorization": "Bearer open-sesame-4711"}
        body = {"prompt": "user", "max_tokens": 1}
        assert httpx.post(f"{url}/v1/completions", json=body, headers=headers).status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        for child in children:
            assert "FARSPAN_API_KEY" not in child.environ()
            assert "open-sesame-4711" not in "\0".join([*child.environ().values(), *child.cmdline()])
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_tokenizer_is_read_before_the_weights_are_there(probe_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(probe_folder, folder)
    (folder / "tokenizer.json").unlink()
    process = start(folder)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "has no tokenizer.json" in said
    assert "weights of" not in said, "nobody waits for weights that nothing will be asked of"
