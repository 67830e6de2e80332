"""What a server says of itself before anything is sent: is it there, which model, how long a context."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import aiohttp
import orjson
from yarl import URL

from farspan.engines.registry import all_engines, find_served
from farspan.errors import InputError, NetworkError
from farspan.measurement.http.wire import read_error_body
from farspan.sizes import format_tokens

ANSWER_LIMIT_S = 30.0
_MOST_BYTES = 8 * 2**20
# A bare word may be anything; a host with a port is a server.
_HOST_AND_PORT = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\]):\d+(/[\w./-]*)?")
_API_PATH = re.compile(r"/v1(/((chat/)?completions|models))?/*$")
_ASIDE_LIMIT_S = 5.0  # for what is good to know but not needed


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server as it describes itself; None or empty where it does not say.

    Args:
        url: Its address without `/v1`.
        model: The model's name in requests.
        root: Where the server loaded the model from, a folder or a hub name.
        max_model_len: Most tokens in and out together.
        owned_by: The engine's name as /v1/models gives it.
        version: The engine's version.
    """

    url: str
    model: str
    root: str | None = None
    max_model_len: int | None = None
    owned_by: str | None = None
    version: str | None = None

    @property
    def length_flag(self) -> str:
        """The flag that raises `max_model_len` on this engine."""
        engine = find_served(self.owned_by)
        if engine is not None:
            return engine.context_flag
        return " or ".join(f"{known.context_flag} ({known.title})" for known in all_engines())


def normalise_url(text: str) -> str:
    """Return a server's address without a trailing slash or `/v1`, and with http:// where it is only a host and port.

    Raises:
        InputError: It is not an http or https address, or it holds a password.
    """
    given = text.strip()
    if "://" not in given and _HOST_AND_PORT.fullmatch(given):
        given = f"http://{given}"
    try:
        url = URL(given)
        usable = url.scheme in ("http", "https") and bool(url.host)
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"{text!r} is not a server's address", "write it as http://localhost:8000")
    if url.user or url.password:
        raise InputError("the server's address holds a password", "put the key into OPENAI_API_KEY")
    return _API_PATH.sub("", str(url.with_query(None).with_fragment(None))).rstrip("/")


def is_local(url: str) -> bool:
    """Tell whether a server is this machine by its address alone."""
    host = URL(url).host or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_same_origin(address: str, other: str) -> bool:
    """Tell whether two addresses are of one server: scheme, host and port; a key for the one is for the other then."""
    try:
        one, two = URL(address), URL(other)
        origins = [(url.scheme, (url.host or "").lower(), url.port) for url in (one, two)]
    except ValueError:
        return False
    return bool(one.host) and origins[0] == origins[1]


async def ask_server(url: str, *, model: str | None = None, api_key: str | None = None) -> ServerInfo:
    """Ask a server what it serves.

    Args:
        url: The server's address, as `normalise_url` returns it.
        model: The model wanted; None takes the first one served.
        api_key: Sent as a bearer token.

    Raises:
        NetworkError: No server answers there, or not as a server of models does.
        InputError: It wants a key, or does not serve that model.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=ANSWER_LIMIT_S, sock_connect=10)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        try:
            status, body = await _get(session, url + "/v1/models")
        except TimeoutError as error:
            raise NetworkError(
                f"the server at {url} did not answer GET /v1/models within {ANSWER_LIMIT_S:g} s",
                "wait until it is ready, or check --url",
            ) from error
        except _OversizedError as error:
            raise NetworkError(
                f"the server at {url} answers GET /v1/models with {error}",
                "check --url: this is no model server",
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            reason = _describe(error)
            raise NetworkError(
                f"no server answers at {url} ({reason})", "start it, or pass its address with --url"
            ) from error
        version = await _ask_version(session, url)
    if status in (401, 403):
        wanted = "refuses the API key" if api_key else "wants an API key"
        raise InputError(f"the server at {url} {wanted} (HTTP {status})", "set OPENAI_API_KEY or --api-key")
    if status >= 500:
        raise NetworkError(
            f"the server at {url} answers HTTP {status}: {read_error_body(body)}",
            "wait until it is ready, or read its log",
        )
    return choose_model(url, _read_models(body) if status == 200 else [], model, version)


async def ask_settings(url: str, *, api_key: str | None = None) -> dict[str, Any] | None:
    """Ask a server for its own settings: SGLang gives them all, vLLM in development mode; None when it does not."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with aiohttp.ClientSession(
        headers=headers, timeout=aiohttp.ClientTimeout(total=_ASIDE_LIMIT_S)
    ) as session:
        for path in ("/server_info", "/get_server_info"):
            try:
                status, body = await _get(session, url + path)
                settings = orjson.loads(body) if status == 200 else None
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                continue
            if isinstance(settings, dict):
                return settings
    return None


def choose_model(url: str, cards: list[dict[str, Any]], model: str | None, version: str | None) -> ServerInfo:
    """Choose the model among the cards of /v1/models; with no cards, the one named is taken on trust.

    Raises:
        InputError: There is no card and no name, or no card of that name.
    """
    if not cards:
        if model is None:
            raise InputError(
                f"the server at {url} lists no model under /v1/models",
                "check the address; farspan bench takes a name with --model",
            )
        return ServerInfo(url, model, version=version)
    card = next((c for c in cards if model in (None, c["id"])), None)
    if card is None:
        served = ", ".join(c["id"] for c in cards)
        raise InputError(
            f"the server at {url} does not serve {model!r}", f"pass --model with one of: {served}"
        )
    root, limit, owner = card.get("root"), card.get("max_model_len"), card.get("owned_by")
    return ServerInfo(
        url=url,
        model=card["id"],
        root=root if isinstance(root, str) and root else None,
        max_model_len=limit if isinstance(limit, int) else None,
        owned_by=owner if isinstance(owner, str) and owner else None,
        version=version,
    )


def check_lengths(server: ServerInfo, contexts: tuple[int, ...], output_tokens: int) -> None:
    """Refuse contexts that the server would refuse, before anything is sent.

    Raises:
        InputError: A context and the output do not fit into the server's longest context.
    """
    limit = server.max_model_len
    if limit is None:
        return
    over = [context for context in contexts if context + output_tokens > limit]
    if over:
        wanted = ", ".join(format_tokens(context) for context in over)
        raise InputError(
            f"context {wanted} plus {output_tokens} output tokens is above the server's limit of {limit:,}",
            f"start the server with {server.length_flag} {max(over) + output_tokens}, or ask for less",
        )


class _OversizedError(ValueError):
    """A server says far more of itself than there is to say."""


def _describe(error: Exception) -> str:
    """Say why no connection came about: what the system says of it, where it says something."""
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None)
    # A name that is not found has a number of its own kind, below 0.
    words = (
        os.strerror(number)
        if isinstance(number, int) and number > 0
        else getattr(cause, "strerror", None) or str(cause)
    )
    return " ".join(words.split())


async def _get(session: aiohttp.ClientSession, address: str) -> tuple[int, bytes]:
    async with session.get(address, allow_redirects=False) as response:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > _MOST_BYTES:
                raise _OversizedError(f"more than {_MOST_BYTES:,} bytes")
        return response.status, bytes(body)


async def _ask_version(session: aiohttp.ClientSession, url: str) -> str | None:
    """Ask for the engine's version: vLLM and the built-in engine have /version, SGLang /get_server_info."""
    for path in ("/version", "/get_server_info"):
        try:
            status, body = await asyncio.wait_for(_get(session, url + path), timeout=_ASIDE_LIMIT_S)
            version = orjson.loads(body).get("version") if status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, AttributeError):
            continue
        if isinstance(version, str):
            return version
    return None


def _read_models(body: bytes) -> list[dict[str, Any]]:
    try:
        cards = orjson.loads(body)["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return []
    if not isinstance(cards, list):
        return []
    return [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]
