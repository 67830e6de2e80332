from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from farspan.measurement.http.answer import AnswerTape
from farspan.measurement.http.client import Client, Exchange, Limits
from farspan.measurement.http.connection import Connection
from farspan.measurement.http.request_body import FilePiece, RequestBody
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.timestamps import read_clocks
from farspan.measurement.http.wire import Api, Usage, encode_body
from scripted import Script, ScriptedServer

IDS = np.arange(1, 101, dtype=np.int32)
ROOT = Path(__file__).resolve().parents[3]


async def send(
    server: ScriptedServer | str, *, api: Api = Api.COMPLETIONS, tokens: int = 4, limits: Limits | None = None
) -> Exchange:
    prompt = "1 2 3" if api is Api.CHAT else IDS
    body = encode_body(api, model="m", prompt=prompt, output_tokens=tokens)
    async with Client(server if isinstance(server, str) else server.url, limits=limits) as client:
        return await client.send(api, body)


@pytest.mark.parametrize("api", list(Api))
async def test_a_good_answer(server: ScriptedServer, api: Api) -> None:
    exchange = await send(server, api=api)
    assert exchange.status is Status.OK
    count, last = (3, 3) if api is Api.CHAT else (100, 100)
    assert exchange.text.split() == [f"w{last + i}" for i in range(4)]
    assert len(exchange.token_times_s) == 4
    assert exchange.usage == Usage(count, 0, 4)
    assert exchange.finish_reason == "length"
    assert exchange.bytes_sent_s is not None
    assert 0 < exchange.bytes_sent_s <= exchange.token_times_s[0] <= exchange.ended_s


async def test_times_are_those_of_the_stream(server: ScriptedServer) -> None:
    server.script = Script(ttft_s=0.2, itl_s=0.05)
    heard: list[float] = []
    body = encode_body(Api.COMPLETIONS, model="m", prompt=IDS, output_tokens=5)
    began = time.perf_counter()
    async with Client(server.url) as client:
        exchange = await client.send(Api.COMPLETIONS, body, on_first_token=heard.append)
    took = time.perf_counter() - began
    assert heard == [exchange.token_times_s[0]]
    # On a busy machine a sleep may end late, never early; and events may be read together.
    assert exchange.token_times_s[0] >= 0.199
    assert exchange.token_times_s[-1] >= 0.199 + 4 * 0.049
    assert list(exchange.token_times_s) == sorted(exchange.token_times_s)
    assert exchange.token_times_s[-1] <= exchange.ended_s <= took


class Told:
    """A server that sends a token when it is told to, and knows when it did, on the client's own clock."""

    HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    TOKEN = b'data: {"choices": [{"index": 0, "text": " w", "finish_reason": null}]}\n\n'
    END = b"data: [DONE]\n\n"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.writing_s = self.written_s = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Told:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.join(20)
        self._listener.close()

    def _serve(self) -> None:
        peer, _ = self._listener.accept()
        with peer:
            peer.recv(2**16)
            assert self.go.wait(20)
            self.writing_s = time.perf_counter()
            peer.sendall(self.HEAD + self.TOKEN)
            self.written_s = time.perf_counter()
            peer.sendall(self.END)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux stamps arrivals")
async def test_a_client_that_is_late_times_arrivals_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiving thread is held up while the first token arrives; the kernel saw it come."""
    resumed: list[float] = []
    real = Connection._on_readable

    def late(connection: Connection, ready: int) -> None:
        if not resumed:
            while not told.written_s:
                time.sleep(0.001)
            time.sleep(0.2)
            resumed.append(time.perf_counter())
        real(connection, ready)

    monkeypatch.setattr(Connection, "_on_readable", late)
    with Told() as told:
        told.go.set()
        exchange = await send(told.url)
    assert exchange.status is Status.OK
    arrived = exchange.started_s + exchange.token_times_s[0]
    assert told.writing_s <= arrived < resumed[0]
    assert exchange.lag is not None
    assert exchange.lag.max >= resumed[0] - arrived


async def test_a_sender_that_is_late_sends_before_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sending thread is held up after its last bytes have left, until the answer to them is there."""
    real = Connection._send_some
    noted: list[float] = []

    def late(connection: Connection, limit: int) -> bool:
        done = real(connection, limit)
        if done:
            told.go.set()
            ends = time.monotonic() + 20
            while connection.first_token_s is None and time.monotonic() < ends:
                time.sleep(0.001)
            noted.append(time.perf_counter())
        return done

    monkeypatch.setattr(Connection, "_send_some", late)
    with Told() as told:
        exchange = await send(told.url)
    assert exchange.status is Status.OK
    assert noted[0] > exchange.started_s + exchange.token_times_s[0]
    assert exchange.bytes_sent_s == exchange.token_times_s[0]


def test_two_clocks_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two times another thread runs for 7 ms between the reads; the third pair is the one to take."""
    now_ns = 10**12
    stalls = [7_000_000, 7_000_000, 0, 7_000_000]

    def steady() -> int:
        nonlocal now_ns
        now_ns += 100
        return now_ns

    def wall() -> int:
        nonlocal now_ns
        read = now_ns + 10**18
        now_ns += stalls.pop(0)
        return read

    monkeypatch.setattr(time, "perf_counter_ns", steady)
    monkeypatch.setattr(time, "time_ns", wall)
    at_s, at_wall = read_clocks()
    assert abs(at_s * 1e9 + 10**18 - at_wall) < 1000
    assert len(stalls) == 1


async def test_a_large_body_arrives_whole(server: ScriptedServer) -> None:
    ids = np.random.default_rng(1).integers(0, 200_000, 2_000_000, dtype=np.int32)
    body = encode_body(Api.COMPLETIONS, model="m", prompt=ids, output_tokens=1)
    async with Client(server.url) as client:
        exchange = await client.send(Api.COMPLETIONS, body)
    assert exchange.status is Status.OK, exchange.error
    assert exchange.body_bytes == len(body) > 10 * 2**20
    assert server.requests[0]["prompt"] == ids.tolist()


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        (Script(status=400), Status.REFUSED, "HTTP 400: as scripted"),
        (Script(status=404, error={"detail": "Not Found"}), Status.REFUSED, "HTTP 404: Not Found"),
        (
            Script(status=500, error="Internal Server Error"),
            Status.SERVER_ERROR,
            "HTTP 500: Internal Server Error",
        ),
        (Script(status=503), Status.SERVER_ERROR, "HTTP 503: as scripted"),
        (Script(status=307), Status.REFUSED, "redirected to nowhere"),
        (Script(cut_after=2), Status.CUT, "after 2 events with tokens"),
        (Script(cut_after=0), Status.CUT, "after no token"),
        (Script(close_before_answer=True), Status.CUT, "after no answer"),
        (Script(error_after=2), Status.SERVER_ERROR, "engine died"),
        (Script(raw=b"data: {oh no\n\n"), Status.SERVER_ERROR, "not JSON: {oh no"),
        (Script(raw=b"data: 7\n\n"), Status.SERVER_ERROR, "not a JSON object"),
        (Script(raw=b"\xff\xfe\x00garbage"), Status.CUT, "after no token"),
        (Script(raw=b""), Status.CUT, "after no token"),
    ],
)
async def test_bad_ends(server: ScriptedServer, script: Script, status: Status, words: str) -> None:
    server.script = script
    exchange = await send(server)
    assert exchange.status is status
    assert words in exchange.error
    assert "\n" not in exchange.error


async def test_what_came_before_a_cut_is_kept(server: ScriptedServer) -> None:
    server.script = Script(cut_after=2)
    exchange = await send(server)
    assert exchange.text.split() == ["w100", "w101"]
    assert len(exchange.token_times_s) == 2


async def test_a_refusal_before_the_body_was_read_keeps_its_words(server: ScriptedServer) -> None:
    server.script = Script(refuse_early=True)
    ids = np.ones(5_000_000, dtype=np.int32)
    body = encode_body(Api.COMPLETIONS, model="m", prompt=ids, output_tokens=1)
    async with Client(server.url) as client:
        exchange = await client.send(Api.COMPLETIONS, body)
    assert exchange.status is Status.REFUSED
    assert "body too large" in exchange.error


async def test_a_server_without_done_is_good_once_it_said_why_it_stopped(server: ScriptedServer) -> None:
    server.script = Script(done=False)
    assert (await send(server)).status is Status.OK


async def test_an_answer_in_one_piece(server: ScriptedServer) -> None:
    server.script = Script(stream=False)
    for api in Api:
        exchange = await send(server, api=api)
        assert exchange.status is Status.OK
        assert not exchange.streamed
        assert len(exchange.text.split()) == 4


async def test_limits(server: ScriptedServer) -> None:
    server.script = Script(hang=True)
    exchange = await send(server, limits=Limits(first_token_s=0.2))
    assert exchange.status is Status.TIMED_OUT
    assert "no token: the limit is 200.0 ms for the first token" in exchange.error
    assert exchange.ended_s >= 0.2
    server.script = Script(ttft_s=1.1)  # longer than the time allowed between tokens
    assert (await send(server, limits=Limits(idle_s=1.0))).status is Status.OK
    server.script = Script(itl_s=3600)
    exchange = await send(server, limits=Limits(idle_s=0.1))
    assert exchange.status is Status.TIMED_OUT
    assert "1 event with tokens: the limit is 100.0 ms between two tokens" in exchange.error


async def test_a_deadline_ends_a_stream_that_keeps_talking(server: ScriptedServer) -> None:
    server.script = Script(itl_s=0.02)
    body = encode_body(Api.COMPLETIONS, model="m", prompt=IDS, output_tokens=100_000)  # half an hour
    async with Client(server.url) as client:
        exchange = await client.send(Api.COMPLETIONS, body, deadline=time.perf_counter() + 1)
    assert exchange.status is Status.TIMED_OUT
    assert "the run's time was up" in exchange.error
    assert exchange.token_times_s


async def test_no_server() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    exchange = await send(f"http://127.0.0.1:{port}")
    assert exchange.status is Status.UNREACHABLE
    assert str(port) in exchange.error


async def test_a_socket_that_accepts_and_says_nothing_is_waited_for_only_as_long_as_told() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        exchange = await send(
            f"http://127.0.0.1:{silent.getsockname()[1]}", limits=Limits(connect_s=1, first_token_s=0.2)
        )
    assert exchange.status is Status.TIMED_OUT
    assert "no answer" in exchange.error


async def test_the_key_is_sent_and_not_shown(server: ScriptedServer) -> None:
    async with Client(server.url, api_key="hunter2") as client:
        await asyncio.sleep(0)
        assert "hunter2" not in repr(client)


async def test_a_body_of_files_arrives_whole(server: ScriptedServer, tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 200_000, 400_000, dtype=np.int32)
    whole = encode_body(Api.COMPLETIONS, model="m", prompt=ids, output_tokens=1)
    file = tmp_path / "middle"
    file.write_bytes(whole[50:-50])
    body = RequestBody((whole[:50], FilePiece(file, len(whole) - 100), whole[-50:]))
    assert body.size == len(whole)
    async with Client(server.url) as client:
        exchanges = await asyncio.gather(*(client.send(Api.COMPLETIONS, body) for _ in range(5)))
    assert {exchange.status for exchange in exchanges} == {Status.OK}
    assert all(request["prompt"] == ids.tolist() for request in server.requests)


async def test_a_file_that_shrinks_or_goes_ends_its_request_only(
    server: ScriptedServer, tmp_path: Path
) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"[1]")
    async with Client(server.url) as client:
        for piece in (FilePiece(short, 100), FilePiece(tmp_path / "gone", 100)):
            exchange = await client.send(Api.COMPLETIONS, RequestBody((b"{", piece)))
            assert exchange.status is Status.CUT
            assert "could not be read" in exchange.error
        good = encode_body(Api.COMPLETIONS, model="m", prompt=IDS, output_tokens=1)
        assert (await client.send(Api.COMPLETIONS, good)).status is Status.OK


async def test_giving_up_ends_what_is_under_way(server: ScriptedServer) -> None:
    server.script = Script(hang=True)
    body = encode_body(Api.COMPLETIONS, model="m", prompt=IDS, output_tokens=1)
    async with Client(server.url) as client:
        sending = [asyncio.create_task(client.send(Api.COMPLETIONS, body)) for _ in range(3)]
        while server.running < 3:
            await asyncio.sleep(0.01)
        client.give_up()
        exchanges = await asyncio.gather(*sending)
    assert {exchange.status for exchange in exchanges} == {Status.TIMED_OUT}
    assert all("the run was stopped" in exchange.error for exchange in exchanges)


async def test_a_peer_that_speaks_no_http_is_named() -> None:
    def chatter() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            peer.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=chatter)
        thread.start()
        exchange = await send(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert exchange.status is Status.SERVER_ERROR
    assert "not HTTP" in exchange.error


async def test_a_bug_in_one_exchange_is_not_the_end_of_the_others(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AnswerTape.add
    broken: list[AnswerTape] = []

    def add(tape: AnswerTape, time_s: float, piece: bytes) -> bool:
        if not broken or broken[0] is tape:
            broken[:] = [tape]
            raise ZeroDivisionError("as tested")
        return real(tape, time_s, piece)

    monkeypatch.setattr(AnswerTape, "add", add)
    body = encode_body(Api.COMPLETIONS, model="m", prompt=IDS, output_tokens=2)
    async with Client(server.url) as client:
        exchanges = [await client.send(Api.COMPLETIONS, body) for _ in range(3)]
    assert [exchange.status for exchange in exchanges] == [Status.CUT, Status.OK, Status.OK]
    assert "as tested" in exchanges[0].error


def count_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_nothing_is_left_open(server: ScriptedServer) -> None:
    before = count_open()
    server.scripts = [Script(), Script(cut_after=1), Script(status=400)]
    body = encode_body(Api.COMPLETIONS, model="m", prompt=IDS, output_tokens=2)
    async with Client(server.url, limits=Limits(first_token_s=0.1)) as client:
        for _ in range(3):
            await client.send(Api.COMPLETIONS, body)
        server.script = Script(hang=True)
        await client.send(Api.COMPLETIONS, body)
        task = asyncio.create_task(client.send(Api.COMPLETIONS, body))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for _ in range(600):  # the server's ends of the connections close when it notices
        if count_open() <= before:
            break
        await asyncio.sleep(0.05)
    assert count_open() <= before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("farspan")]


async def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large body and a stream over TLS, against a certificate that the system is told to trust."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl is not installed"
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    event = b'data: {"choices": [{"index": 0, "text": " w%d", "finish_reason": %s}]}\n\n'
    got = bytearray()
    heard = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        got.extend(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(4):
            writer.write(event % (number, b'"length"' if number == 3 else b"null"))
            await writer.drain()
            await heard.wait()
        writer.close()

    body = encode_body(Api.COMPLETIONS, model="m", prompt=np.arange(900_000, dtype=np.int32), output_tokens=4)
    file = tmp_path / "body"
    file.write_bytes(body)
    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with listening:
        url = f"https://localhost:{listening.sockets[0].getsockname()[1]}"
        exchange = await send(url)
        assert exchange.status is Status.UNREACHABLE
        assert "certificate" in exchange.error.lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with Client(url) as client:
            pieces = RequestBody((FilePiece(file, len(body)),))
            exchange = await client.send(Api.COMPLETIONS, pieces, on_first_token=lambda _: heard.set())
    assert exchange.status is Status.OK, exchange.error
    assert exchange.text == " w0 w1 w2 w3"
    assert got == body
    first, second = exchange.token_times_s[:2]  # the second was sent when the first had been heard
    assert first < second
    assert exchange.lag is None


def test_the_benchmark_of_the_client_runs(tmp_path: Path) -> None:
    """A small part of it: 8 streams instead of 50, 4 MB instead of 40. How exact the times are is for it to say."""
    command = [
        sys.executable, "benchmarks/bench_client.py", "--streams", "8", "--body-mb", "4", "--rounds", "2", "--ttft",
        "0.2", "--itl", "0.05", "--tokens", "15", "--parse-repeats", "1", "--json", tmp_path / "out.json",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["load"]["requests"] == 16
    assert found["load"]["tokens"] == 16 * 15
    assert 1 < found["load"]["most_bodies_in_flight"] <= 8
    assert found["load"]["peak_rss_mb"] < 300
    for errors in found["load"]["errors_ms"].values():
        assert 0 <= errors["p50"] <= errors["p99"] <= errors["max"]
    assert set(found["parsing"]) == {"completions", "chat"}
