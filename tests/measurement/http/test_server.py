from __future__ import annotations

import socket

import pytest

from farspan.errors import InputError, NetworkError
from farspan.measurement.http.target import (
    ServerInfo,
    ask_server,
    check_lengths,
    normalise_url,
)
from scripted import ScriptedServer


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://localhost:8000/v1", "http://localhost:8000"),
        (" https://host/prefix/v1/ ", "https://host/prefix"),
        ("http://[::1]:8000/v1?x=1#y", "http://[::1]:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("10.0.0.7:30000/v1/", "http://10.0.0.7:30000"),
        ("[::1]:8000/v1", "http://[::1]:8000"),
        ("HTTP://Host:80/v1/chat/completions", "http://host"),
        ("http://localhost:8000/v1/models/", "http://localhost:8000"),
    ],
)
def test_urls(text: str, url: str) -> None:
    assert normalise_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "localhost:",
        "host.example/v1",
        "/v1",
        "ftp://x",
        "http://",
        "http://h:notaport",
        "http://u:p@h",
    ],
)
def test_bad_urls(text: str) -> None:
    with pytest.raises(InputError) as caught:
        normalise_url(text)
    assert caught.value.fix


async def test_a_server_tells_what_it_serves(server: ScriptedServer) -> None:
    server.card |= {"root": "/models/scout", "max_model_len": 4096}
    assert await ask_server(server.url) == ServerInfo(
        server.url, "scripted", "/models/scout", 4096, "vllm", "1.2.3"
    )
    with pytest.raises(InputError, match=r"does not serve 'other'.*scripted"):
        await ask_server(server.url, model="other")


async def test_a_server_without_models_is_taken_at_the_users_word(server: ScriptedServer) -> None:
    server.models_status = 404
    assert (await ask_server(server.url, model="mine")).model == "mine"
    with pytest.raises(InputError, match="--model"):
        await ask_server(server.url)


async def test_a_server_that_is_loading(server: ScriptedServer) -> None:
    server.models_status = 503
    with pytest.raises(NetworkError, match="HTTP 503: still loading"):
        await ask_server(server.url)


async def test_a_server_that_wants_a_key(server: ScriptedServer) -> None:
    server.key = "hunter2"
    with pytest.raises(InputError, match=r"wants an API key.*OPENAI_API_KEY"):
        await ask_server(server.url)
    with pytest.raises(InputError, match="refuses the API key") as caught:
        await ask_server(server.url, api_key="hunter3")
    assert "hunter3" not in str(caught.value)
    assert (await ask_server(server.url, api_key="hunter2")).model == "scripted"


async def test_no_server() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(NetworkError, match="no server answers") as caught:
        await ask_server(url)
    assert "\n" not in str(caught.value)


def test_the_limit_counts_the_output_too() -> None:
    server = ServerInfo("u", "m", max_model_len=1000, owned_by="sglang")
    check_lengths(server, (984,), 16)
    check_lengths(ServerInfo("u", "m"), (10**9,), 16)
    with pytest.raises(InputError, match=r"limit of 1,000; start the server with --context-length 1001,"):
        check_lengths(server, (984, 985), 16)
