"""The key, host names and origins, on what the router sees and with whatever bytes a client sends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from farspan.builtin.gate import AccessGate, AccessRules, access_rules
from farspan.errors import InputError


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"secret"})


def ask(
    rules: AccessRules, path: str = "/v1/models", method: str = "GET", **headers: bytes | list[bytes]
) -> int:
    """Return the status of a request; header names have _ for a hyphen, a list repeats one."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [
            (name.replace("_", "-").encode(), value)
            for name, values in headers.items()
            for value in (values if isinstance(values, list) else [values])
        ],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    call = AccessGate(behind, rules)(scope, receive, send)
    with pytest.raises(StopIteration):
        call.__await__().send(None)  # type: ignore[attr-defined]
    return int(sent[0]["status"])


KEYED = access_rules(b"sesame", "0.0.0.0")
LOOPBACK = access_rules(None, "127.0.0.1")


@pytest.mark.parametrize("host", [b"a", b"x/health?", b"x/health#", b"", b"\xff"])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/health/", "//health", "/Health", "/health?"])
def test_only_the_path_the_router_sees_is_free_of_the_key(host: bytes, path: str) -> None:
    assert ask(KEYED, path, host=host) == 401
    assert ask(KEYED, "/health", host=host) == 200
    assert ask(KEYED, path, host=host, authorization=b"Bearer sesame") == 200


@pytest.mark.parametrize(
    "given_key",
    [b"", b"Bearer", b"Bearer ", b"Bearer Sesame", b"Bearer sesam", b"Bearer sesame2", b"Basic sesame", b"sesame"],
)  # fmt: skip
def test_wrong_keys(given_key: bytes) -> None:
    assert ask(KEYED, authorization=given_key) == 401
    assert ask(KEYED, authorization=[b"Bearer sesame", given_key]) == 401, "one key, not a choice of them"


@given(st.binary(max_size=40))
def test_any_bytes_are_compared(given_key: bytes) -> None:
    assert ask(KEYED, authorization=b"Bearer " + given_key) == (
        200 if given_key.strip() == b"sesame" else 401
    )


def test_keys_of_any_bytes_are_kept() -> None:
    key = "pä55wörd".encode() + b"\xff\xfe"
    assert ask(access_rules(key, "127.0.0.1"), authorization=b"Bearer " + key) == 200
    assert ask(access_rules(key, "127.0.0.1"), authorization=b"Bearer " + key[:-1]) == 401


@pytest.mark.parametrize("key", [b"", b" ", b"\t\n", b"a\nb", b" a", b"a\n", b"a\x00b"])
def test_keys_that_nobody_could_send_are_refused(key: bytes) -> None:
    with pytest.raises(InputError, match="FARSPAN_API_KEY"):
        access_rules(key, "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 200),
        (b"LOCALHOST.:8000", 200),
        (b"127.0.0.1:8000", 200),
        (b"[::1]:8000", 200),
        (b"10.1.2.3", 200),
        (b"evil.example", 403),
        (b"localhost.evil.example", 403),
        (b"127.0.0.1.evil.example", 403),
        (b"evil.example:127", 403),
        (b"user@localhost", 403),
        (b"localhost:x", 403),
        (b"", 403),
        (b"\xff", 403),
    ],
)
def test_host_names_on_loopback_without_a_key(host: bytes, status: int) -> None:
    assert ask(LOOPBACK, host=host) == status
    assert ask(LOOPBACK, host=[b"localhost", host]) == status
    assert ask(access_rules(None, "127.0.0.1", "*"), host=host) == 200
    assert ask(access_rules(None, "0.0.0.0"), host=host) == 200, "only asked for on loopback"
    assert ask(LOOPBACK) == 200, "HTTP/1.0 has no Host"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": b"http://evil.example"}, 403),
        ({"origin": b"null"}, 403),
        ({"origin": b"http://["}, 403),
        ({"origin": b"http://localhost:8000"}, 403),
        ({"origin": b"http://127.0.0.1:8000"}, 200),
        ({"origin": b"http://127.0.0.1:9999"}, 403),
        ({"sec_fetch_site": b"cross-site"}, 403),
        ({"sec_fetch_site": b"same-origin"}, 200),
        ({}, 200),
    ],
)
def test_posts_of_other_sites_pages(headers: dict[str, Any], status: int) -> None:
    host = {"host": b"127.0.0.1:8000"}
    assert ask(LOOPBACK, "/v1/completions", "POST", **host, **headers) == status
    assert ask(LOOPBACK, "/reset_prefix_cache", "POST", **host, **headers) == status
    assert ask(access_rules(b"k", "127.0.0.1"), "/v1/completions", "POST", **host, **headers) == 401


def test_allowed_hosts_are_names() -> None:
    rules = access_rules(None, "127.0.0.1", "gpu-box, Other.Example")
    assert ask(rules, host=b"gpu-box:8000") == ask(rules, host=b"other.example") == 200
    assert ask(rules, host=b"localhost") == 403
    assert ask(rules, "/x", "POST", host=b"gpu-box", origin=b"https://other.example") == 200
    with pytest.raises(InputError, match="empty name"):
        access_rules(None, "127.0.0.1", "a,,b")
