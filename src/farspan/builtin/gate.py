"""Who may speak to the server: API key, host names and origins, checked before any route sees the request."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from farspan.builtin.answers import error_body
from farspan.errors import InputError

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may speak to a server.

    Attributes:
        key: What every request but GET /health must carry as its bearer token; None for no key.
        hosts: The names clients may call the server by; addresses are always allowed. None for any name.
        origins: Names of web sites whose pages may send requests; the server's own always may.
    """

    key: bytes | None = None
    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()


def access_rules(key: bytes | None, address: str, allowed_hosts: str | None = None) -> AccessRules:
    """Return the rules of a server.

    Without a key, a server on a loopback address is open to every program of its machine, and through a browser's
    pages to every web site: it answers to `localhost` and to addresses only, unless other names are given.

    Args:
        key: The value of FARSPAN_API_KEY; None when it is not set.
        address: Where the server listens.
        allowed_hosts: Names with commas between them, or `*`; None for the default.

    Raises:
        InputError: The key is empty, or is one that no HTTP header can carry; or a name is empty.
    """
    if key is not None:
        if not key.strip():
            raise InputError(
                "FARSPAN_API_KEY is empty", "set a key, or unset the variable to serve without one"
            )
        if key != key.strip() or any(byte < 0x20 or byte == 0x7F for byte in key):
            raise InputError(
                "FARSPAN_API_KEY holds a control character, or begins or ends with a space",
                "choose a key that an HTTP header can carry",
            )
    if allowed_hosts is not None:
        names = frozenset(_plain(name) for name in allowed_hosts.split(","))
        if "" in names:
            raise InputError(
                "--allowed-hosts has an empty name", "write names with commas between them, or *"
            )
        return AccessRules(key) if "*" in names else AccessRules(key, names, names)
    if key is None and _is_loopback(address):
        return AccessRules(None, frozenset({"localhost", _plain(address)}))
    return AccessRules(key)


class AccessGate:
    """ASGI middleware that refuses what the rules do not allow and passes the rest on untouched.

    It adds nothing between the route and the connection, so that a client that goes away is noticed there.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app = app
        self._hosts = rules.hosts
        self._origins = rules.origins
        self._key = None if rules.key is None else _digest(rules.key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refused request, or pass it on."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers: _Headers = scope["headers"]
        # The path that the router goes by, not one put together from the Host header.
        if self._key is not None and scope["path"] != "/health" and not self._has_key(headers):
            body = error_body("the API key is missing or wrong", "unauthorized", 401)
            return JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
        if self._hosts is not None and not all(self._is_allowed(host) for host in _values(headers, b"host")):
            return _forbidden("this server does not answer to that host name")
        if self._hosts is not None and scope["method"] not in _READING and self._is_from_elsewhere(headers):
            return _forbidden("requests of another web site's pages are refused")
        return None

    def _has_key(self, headers: _Headers) -> bool:
        given = _values(headers, b"authorization")
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        # Digests are of one length: how long the comparison takes says nothing of the key.
        same = hmac.compare_digest(_digest(token.strip()), self._key or b"")
        return same and scheme.lower() == b"bearer"

    def _is_allowed(self, host: bytes) -> bool:
        name = _host_name(host.decode("latin-1"))
        return name is not None and (_is_address(name) or name in (self._hosts or ()))

    def _is_from_elsewhere(self, headers: _Headers) -> bool:
        """Whether a browser says that a page of another origin sent the request; other clients say nothing."""
        origins = _values(headers, b"origin")
        if not origins and b"cross-site" in _values(headers, b"sec-fetch-site"):
            return True
        hosts = [_plain(host.decode("latin-1")) for host in _values(headers, b"host")]
        netlocs = [_netloc(origin.decode("latin-1")) for origin in origins]
        return any(netloc not in hosts and _host_name(netloc) not in self._origins for netloc in netlocs)


def _forbidden(message: str) -> JSONResponse:
    return JSONResponse(error_body(f"{message}; see --allowed-hosts", "forbidden", 403), 403)


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _plain(name: str) -> str:
    return name.strip().rstrip(".").lower()


def _netloc(origin: str) -> str:
    try:
        return _plain(urlsplit(origin).netloc)
    except ValueError:
        return ""


def _host_name(host: str) -> str | None:
    """Return the name of a Host header without its port; None when it is not one."""
    if not host:
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.netloc != host or parts.username is not None:
        return None
    return _plain(parts.hostname or "")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return _plain(address) == "localhost"
