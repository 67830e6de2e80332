"""A server's key goes with every request to that server, and with none to another."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import builtin_server
import farspan
from farspan.errors import NetworkError
from farspan.measurement.http.target import is_same_origin
from farspan.measurement.runs.series import read_series
from farspan.models.probe import write_probe
from farspan.prompts.load_tokenizer import load_tokenizer

KEY = "sesame"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The built-in engine, which asks for its key everywhere but at /health."""
    folder = write_probe(
        tmp_path_factory.mktemp("locked") / "recall", num_attention_heads=2, num_key_value_heads=2
    )
    process = builtin_server.start(folder.folder, FARSPAN_API_KEY=KEY)
    try:
        yield builtin_server.address(process)
    finally:
        process.terminate()
        process.communicate(timeout=20)


class Stranger(BaseHTTPRequestHandler):
    """Another server: remembers the keys it was given, and sends some requests on."""

    keys: list[str | None]
    onward: str

    def do_GET(self) -> None:
        self._note()
        if self.path == "/v1/models":
            self._answer({"data": [{"id": "stranger"}]})
        else:
            self._answer({})

    def do_POST(self) -> None:
        self._note()
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.onward:
            self.send_response(307)
            self.send_header("Location", f"{self.onward}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._answer({"tokens": [1]})

    def _note(self) -> None:
        self.keys.append(self.headers.get("Authorization"))

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def strangers() -> Iterator[list[tuple[str, type[Stranger]]]]:
    """Two servers, with the class that each of them answers by."""
    running = []
    for _ in range(2):
        handler = type("Handler", (Stranger,), {"keys": [], "onward": ""})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        running.append((f"http://127.0.0.1:{server.server_address[1]}", handler, server, thread))
    yield [(url, handler) for url, handler, _, _ in running]
    for _, _, server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_locked_server_counts_tokens_for_its_key(locked: str) -> None:
    tokenizer = load_tokenizer(locked, api_key=KEY)
    assert len(tokenizer.encode_piece(" a")) == 1
    with pytest.raises(NetworkError, match="401") as refused:
        load_tokenizer(locked)
    assert "OPENAI_API_KEY" in refused.value.fix


def test_a_bench_of_a_locked_server_by_its_own_tokenizer(locked: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    measured = farspan.bench(
        locked,
        contexts=["300"],
        task="summarise",
        tokenizer=locked,
        api_key=KEY,
        run=run,
        metrics_interval=0.1,
    )
    (request,) = measured.to_json()["requests"]
    assert request["prompt_tokens"] == 300
    assert request["status"] == "wrong_answer", "answered; the recall checkpoint has no summary of anything"
    assert read_series(run)["engine"]["prompt_tokens"], "its metrics were read with the key"
    assert KEY.encode() not in b"".join(path.read_bytes() for path in run.iterdir() if path.is_file())


def test_metrics_named_on_the_same_server_are_read_with_the_key(locked: str, tmp_path: Path) -> None:
    measured = farspan.bench(
        locked,
        contexts=["300"],
        api_key=KEY,
        run=tmp_path / "run",
        metrics_url=f"{locked}/metrics",
        metrics_interval=0.1,
    )
    assert not measured.to_json()["faults"]


def test_a_locked_server_is_checked_proven_and_prompted_for(locked: str, tmp_path: Path) -> None:
    assert farspan.probe(check=locked, max_context=2000, api_key=KEY).good
    proof = farspan.prove(
        url=locked,
        contexts="1k",
        depths=(0.5,),
        output_tokens=4,
        api_key=KEY,
        output=tmp_path / "proof",
        formats=["md"],
    )
    assert proof.good
    kept = [path.read_bytes() for path in (tmp_path / "proof").rglob("*") if path.is_file()]
    assert KEY.encode() not in b"".join(kept)
    written = farspan.prompt(300, locked, task="summarise", api_key=KEY, verify_with=locked)
    assert written.prompts[0].tokens == 300


def test_the_key_is_not_for_another_server(
    locked: str, strangers: list[tuple[str, type[Stranger]]], tmp_path: Path
) -> None:
    (other, heard), _ = strangers
    with pytest.raises(NetworkError):
        # The stranger's counts are of no use, but it is asked.
        farspan.bench(
            locked,
            contexts=["300"],
            tokenizer=f"{other}/v1/nothing",
            api_key=KEY,
            run=tmp_path / "a",
            metrics_interval=0,
        )
    farspan.bench(
        locked,
        contexts=["300"],
        api_key=KEY,
        run=tmp_path / "b",
        metrics_url=f"{other}/metrics",
        metrics_interval=0.1,
    )
    assert len(heard.keys) > 2
    assert set(heard.keys) == {None}


def test_a_redirect_takes_no_key_along(strangers: list[tuple[str, type[Stranger]]]) -> None:
    (one, heard), (two, elsewhere) = strangers
    heard.onward = two
    with pytest.raises(NetworkError, match="307"):
        load_tokenizer(one, api_key=KEY)
    assert heard.keys == [f"Bearer {KEY}"] * 2
    assert elsewhere.keys == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://a:8000/v1", "http://a:8000", True),
        ("http://A:80", "http://a", True),
        ("https://a:8000", "http://a:8000", False),
        ("http://a:8001", "http://a:8000", False),
        ("http://a.example.evil:8000", "http://a.example:8000", False),
        ("./recall", "http://a:8000", False),
        ("", "http://a:8000", False),
    ],
)
def test_one_server_is_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    assert is_same_origin(one, other) is same
