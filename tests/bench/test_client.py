from __future__ import annotations

import asyncio
import socket
import time

import numpy as np
import pytest

from farspan.bench.client import Client, Exchange, Limits
from farspan.bench.status import Status
from farspan.bench.wire import Api, Usage, encode_body
from scripted import Script, ScriptedServer

IDS = np.arange(1, 101, dtype=np.int32)


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
    async with Client(server.url) as client:
        exchange = await client.send(Api.COMPLETIONS, body, on_first_token=heard.append)
    assert heard == [exchange.token_times_s[0]]
    # The server and the client share a loaded machine: sleeps may be late, never early.
    assert 0.199 <= exchange.token_times_s[0] < 0.4
    gaps = np.diff(exchange.token_times_s)
    assert 0.045 <= float(np.median(gaps)) < 0.1


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
    begin = time.perf_counter()
    exchange = await send(server, limits=Limits(first_token_s=0.2))
    assert exchange.status is Status.TIMED_OUT
    assert "no token" in exchange.error
    assert time.perf_counter() - begin < 2
    server.script = Script(ttft_s=0.3)
    assert (await send(server, limits=Limits(idle_s=0.1))).status is Status.OK
    server.script = Script(itl_s=0.5)
    exchange = await send(server, limits=Limits(idle_s=0.1))
    assert exchange.status is Status.TIMED_OUT
    assert "1 events with tokens" in exchange.error


async def test_a_deadline_ends_a_stream_that_keeps_talking(server: ScriptedServer) -> None:
    server.script = Script(itl_s=0.02)
    body = encode_body(Api.COMPLETIONS, model="m", prompt=IDS, output_tokens=1000)
    async with Client(server.url) as client:
        exchange = await client.send(Api.COMPLETIONS, body, deadline=time.perf_counter() + 0.3)
    assert exchange.status is Status.TIMED_OUT
    assert exchange.ended_s < 2
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
