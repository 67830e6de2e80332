"""Hostile requests over HTTP: each gets its 4xx or 5xx, /health stays quick, and nothing is left behind."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from builtin_server import address, metrics, post, start

LIMITS = ("--kv-cache-gib", "0.25", "--max-num-batched-tokens", "512", "--max-model-len", "100000")


@pytest.fixture(scope="module")
def url(probe_folder: Path) -> Iterator[str]:
    process = start(probe_folder, *LIMITS)
    try:
        yield address(process)
    finally:
        process.terminate()
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)


# A server that has nothing else to do: how long it takes to answer is the machine's doing.
IDLE_SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def idle_url() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", IDLE_SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


class Health:
    """Asks /health all the time, from a thread, and an idle server in turn.

    Attributes:
        worst: The longest answer, in seconds.
        worst_idle: The longest that the idle server took.
    """

    def __init__(self, url: str, idle_url: str) -> None:
        self._urls = (f"{url}/health", idle_url)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.worst = self.worst_idle = 0.0

    @property
    def is_quick(self) -> bool:
        """Whether answers came at once: the promise is 0.1 s, but processes that run beside have their turns too."""
        return self.worst < max(0.5, 4 * self.worst_idle)

    def _ask(self) -> None:
        with httpx.Client(timeout=120) as client:
            while not self._done.wait(0.02):
                taken = []
                for url in self._urls:
                    started = time.monotonic()
                    assert client.get(url).status_code == 200
                    taken.append(time.monotonic() - started)
                self.worst, self.worst_idle = max(self.worst, taken[0]), max(self.worst_idle, taken[1])

    def __enter__(self) -> "Health":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


ONE: dict[str, Any] = {"prompt": [1, 2, 3], "max_tokens": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2**63},
        {"seed": -(2**63) - 1},
        {"seed": 1e19},
        {"seed": str(2**70)},
        {"seed": True},
        {"top_p": 0},
        {"top_p": -0.0},
        {"top_p": 1.0000001},
        {"top_p": "0.5"},
        {"temperature": -1e-9},
        {"temperature": 1e308},
        {"temperature": "1"},
        {"temperature": [1]},
        {"top_k": -2},
        {"top_k": 1.5},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 2**70},
        {"max_tokens": 2**31},
        {"max_tokens": "5"},
        {"n": 0},
        {"n": 2},
        {"n": True},
        {"n": 1.0},
        {"response_format": {"type": "json_object"}},
        {"logit_bias": {"5": 100}},
        {"top_logprobs": 3},
        {"logprobs": 5},
        {"best_of": 3},
        {"echo": True},
        {"stop": ["x"] * 17},
        {"stop": "x" * 257},
        {"stop": [5]},
        {"stop": {}},
        {"stop_token_ids": [str(2**70)]},
        {"stop_token_ids": [-1]},
        {"stop_token_ids": list(range(1025))},
        {"stream": 1},
        {"stream": "yes"},
        {"stream_options": {"include_usage": 1}},
        {"stream_options": {"other": True}},
        {"ignore_eos": "x"},
        {"cache_salt": ""},
        {"cache_salt": "x" * 1025},
        {"user": 5},
        {"model": ["probe"]},
        {"prompt": [True]},
        {"prompt": [1.0]},
        {"prompt": [2**40]},
        {"prompt": [10**30]},
        {"prompt": ["a" * 100_000, *["b"] * 500]},
        {"prompt": {"a": 1}},
        {"prompt": 5},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_parameters_out_of_type_or_range_are_refused(url: str, changes: dict[str, Any]) -> None:
    reply = post(url, "/v1/completions", {**ONE, **changes})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert len(reply.json()["error"]["message"]) < 600
    assert "\n" not in reply.json()["error"]["message"]
    chat = {"messages": [{"role": "user", "content": "x"}], **changes}
    if "prompt" not in changes:
        assert post(url, "/v1/chat/completions", chat).status_code == 400


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "seed", "max_tokens"])
def test_numbers_that_are_none_are_refused(url: str, name: str, text: str) -> None:
    body = f'{{"prompt": [1, 2], "{name}": {text}}}'
    assert httpx.post(f"{url}/v1/completions", content=body).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2**63 - 1},
        {"seed": -(2**63)},
        {"top_p": 1e-50},
        {"top_p": 5e-324},
        {"temperature": 1e-5},
        {"temperature": 1e-300},
        {"temperature": 100},
        {"top_k": 2**62},
        {"temperature": 1},
        {"stop": ["", "x"]},
        {"user": None, "seed": None, "stop": None},
    ],
)
def test_parameters_at_the_edge_are_answered(url: str, changes: dict[str, Any]) -> None:
    assert post(url, "/v1/completions", {**ONE, **changes}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "user " * 400_000},
        {"prompt": ["a" * 2_000_000, *["b"] * 300_000]},
        {"prompt": [1] * 1_000_000},
        {"messages": [{"role": "user", "content": "user " * 400_000}]},
        {"messages": [{"role": "user", "content": [{"a": [[[1] * 100] * 100] * 50}]}]},
    ],
    ids=["text", "strings", "ids", "chat", "nested"],
)
def test_large_bodies_leave_health_quick(url: str, idle_url: str, body: dict[str, Any]) -> None:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    content = json.dumps({**body, "max_tokens": 1}).encode()
    with Health(url, idle_url) as health:
        reply = httpx.post(f"{url}{path}", content=content, timeout=300)
    # What becomes of a nested message is the template's business.
    assert reply.status_code in ((200, 400) if "messages" in body else (400,)), reply.text[:300]
    assert health.is_quick, (health.worst, health.worst_idle)


def test_a_body_above_the_limit_is_refused(url: str) -> None:
    limit = 2**20 + 32 * 100_000
    reply = httpx.post(f"{url}/v1/completions", content=b" " * (limit + 1), timeout=300)
    assert reply.status_code == 413
    assert f"{limit:,} bytes" in reply.json()["error"]["message"]

    def endless() -> Iterator[bytes]:
        for _ in range(limit // 65536 + 2):
            yield b" " * 65536

    assert httpx.post(f"{url}/v1/completions", content=endless(), timeout=300).status_code == 413
    assert httpx.post(f"{url}/v1/completions", content=b" " * limit, timeout=300).status_code == 400


def test_a_tokenized_text_comes_back_whole(url: str) -> None:
    ids = post(url, "/tokenize", {"prompt": "user " * 200_000}).json()["tokens"]
    assert len(ids) > 100_000
    text = post(url, "/detokenize", {"tokens": ids[1:]}).json()["prompt"]
    assert post(url, "/tokenize", {"prompt": text}).json()["tokens"] == ids
    assert post(url, "/detokenize", {"tokens": [4096]}).status_code == 400
    assert post(url, "/detokenize", {"tokens": "x"}).status_code == 400


def metrics_say(url: str, headers: dict[str, str], wanted: str) -> str:
    """Wait for the metrics that say `wanted`, and return them."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text = httpx.get(f"{url}/metrics", headers=headers, timeout=60).text
        if wanted in text:
            return text
        time.sleep(0.05)
    raise AssertionError(f"{wanted} is not in {text}")


@pytest.mark.parametrize("key", [None, "sesame"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_is_noticed(probe_folder: Path, key: str | None, stream: bool) -> None:
    process = start(probe_folder, *LIMITS, **({"FARSPAN_API_KEY": key} if key else {}))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        url = address(process)
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({"prompt": [20] * 50, "max_tokens": 20_000, "ignore_eos": True, "stream": stream})
        for ended in range(1, 4):
            with socket.create_connection((host, int(port))) as client:
                lines = [f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"]
                lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
                client.sendall(("".join(lines) + "\r\n" + body).encode())
                metrics_say(url, headers, 'num_requests_running{model_name="probe"} 1.0')
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            text = metrics_say(
                url, headers, f'success_total{{finished_reason="abort",model_name="probe"}} {ended}.0'
            )
        assert 'num_requests_running{model_name="probe"} 0.0' in text
        assert 'kv_cache_promised_bytes{model_name="probe"} 0.0' in text
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_template_that_never_ends_ends_its_request_alone(
    probe_folder: Path, tmp_path: Path, idle_url: str
) -> None:
    folder = tmp_path / "loops"
    folder.mkdir()
    for file in probe_folder.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    process = start(folder, *LIMITS)
    try:
        url = address(process)
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        with Health(url, idle_url) as health:
            reply = post(url, "/v1/chat/completions", body)
        assert reply.status_code == 500
        assert "the chat template took longer than 2.0 s" in reply.json()["error"]["message"]
        assert health.is_quick, (health.worst, health.worst_idle)
        asking = [threading.Thread(target=_leave, args=(url, body)) for _ in range(6)]
        for thread in asking:
            thread.start()
        time.sleep(0.5)
        assert post(url, "/v1/completions", {"prompt": "user", "max_tokens": 1}).status_code == 200
        workers = psutil.Process(process.pid).children()
        assert workers
        started = time.monotonic()
        process.terminate()
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)
        assert time.monotonic() - started < 8
        for thread in asking:
            thread.join()
        assert not any(worker.is_running() for worker in workers)
    finally:
        process.kill()
        process.wait()


def _leave(url: str, body: dict[str, Any]) -> None:
    try:
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=3)
    except httpx.HTTPError:
        return


def test_a_killed_server_leaves_no_process(probe_folder: Path) -> None:
    process = start(probe_folder, *LIMITS)
    url = address(process)
    assert post(url, "/v1/completions", {"prompt": "user", "max_tokens": 1}).status_code == 200
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers
    assert not alive


def test_bodies_that_are_refused_start_no_process(url: str) -> None:
    """A process is a second's work: what a client gets wrong must not cost the server one."""
    assert post(url, "/tokenize", {"prompt": "user"}).status_code == 200
    me = psutil.Process()
    (server,) = [child for child in me.children() if any(part in child.cmdline() for part in LIMITS[4:])]
    before = {child.pid for child in server.children()}
    for body in ({"prompt": 5}, {"n": 2, "prompt": [1]}, {"prompt": [10**9]}, {"x": 1}):
        assert post(url, "/v1/completions", body).status_code == 400
    assert httpx.post(f"{url}/v1/completions", content=b"{").status_code == 400
    assert {child.pid for child in server.children()} == before


def test_a_text_process_that_dies_ends_its_request_alone(url: str) -> None:
    assert post(url, "/tokenize", {"prompt": "user"}).status_code == 200
    me = psutil.Process()
    (server,) = [child for child in me.children() if any(part in child.cmdline() for part in LIMITS[4:])]
    for worker in server.children():
        if "farspan.builtin.text_worker" in worker.cmdline():
            os.kill(worker.pid, signal.SIGKILL)
    statuses = [post(url, "/tokenize", {"prompt": "user"}).status_code for _ in range(5)]
    assert set(statuses) <= {200, 500}
    assert statuses[-1] == 200


def test_metrics_are_zero_when_all_is_over(url: str) -> None:
    httpx.post(f"{url}/reset_prefix_cache")
    deadline = time.monotonic() + 60
    while metrics(url)["farspan:kv_cache_cached_tokens"] and time.monotonic() < deadline:
        time.sleep(0.05)
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_tokens", "kv_cache_cached_tokens"):
        assert metrics(url)[f"farspan:{name}"] == 0


def test_an_empty_key_starts_no_server(probe_folder: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "farspan.builtin", str(probe_folder)],
        env={**os.environ, "FARSPAN_API_KEY": ""},
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert "FARSPAN_API_KEY is empty" in process.stderr
    assert "Traceback" not in process.stderr


def test_names_and_origins_over_http(url: str) -> None:
    assert httpx.get(f"{url}/v1/models", headers={"Host": "evil.example"}).status_code == 403
    page = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
    assert httpx.post(f"{url}/v1/completions", content=json.dumps(ONE), headers=page).status_code == 403
    assert httpx.post(f"{url}/v1/completions", content=json.dumps(ONE)).status_code == 200
