"""What a server works on, as farspan status says it: idle, busy, or nothing where it does not tell."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from farspan.diagnosis.live.reach import UrlReach
from farspan.launch.started_servers import _describe_load


@contextmanager
def metrics_server(body: bytes, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def vllm(running: int, waiting: int) -> bytes:
    return (
        f'vllm:num_requests_running{{model_name="m"}} {running}\n'
        f'vllm:num_requests_waiting{{model_name="m"}} {waiting}\n'
    ).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (vllm(0, 0), "idle"),
        (vllm(1, 0), "busy: 1 running"),
        (vllm(8, 3), "busy: 8 running, 3 waiting"),
        (b"sglang:num_running_reqs 2\nsglang:num_queue_reqs 0\n", "busy: 2 running"),
        (b"process_cpu_seconds 1\n", ""),
        (b"\xff\xfe nonsense", ""),
    ],
)
def test_idle_and_busy_are_told_apart(body: bytes, said: str) -> None:
    with metrics_server(body) as url:
        assert _describe_load(UrlReach(url)) == said


def test_a_server_that_does_not_tell_is_not_asked_twice() -> None:
    with metrics_server(b"", status=401) as url:
        assert _describe_load(UrlReach(url)) == ""
    assert _describe_load(UrlReach(url)) == "", "it is gone"
