"""One streamed request against a server, observed: what was sent and received, and exactly when.

The clock starts before the connection is made and before the first byte of the body leaves. Nothing is
encoded or decoded between the clock's start and the first token but the answer's own events.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
import orjson

from farspan import __version__
from farspan.bench.sse import OversizedEventError, SseParser
from farspan.bench.status import Status
from farspan.bench.wire import (
    AnswerEvent,
    Api,
    MalformedEventError,
    Usage,
    read_error_body,
    read_event,
    read_message,
)

SEND_CHUNK_BYTES = 2**20
_ERROR_BODY_BYTES = 64 * 2**10
_WHOLE_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds; None waits for ever. There is no limit on a whole answer: 10M tokens
    take an hour.

    Args:
        connect_s: Until the connection stands.
        first_token_s: From the start until the first token.
        idle_s: Between two tokens.
    """

    connect_s: float | None = 10.0
    first_token_s: float | None = None
    idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one request did, as the client saw it. Times are seconds since the request's start.

    Args:
        status: How it ended, before anyone checked the count or the answer.
        error: Why, in one line; the server's own words when it gave any.
        started_at: Wall clock at the start, seconds since the epoch.
        bytes_sent_s: When the last byte of the body was handed to the kernel; None when that never happened.
        token_times_s: Arrival of every event that carried tokens.
        ended_s: When the exchange was over.
        text: The whole reply.
        streamed: False when the server answered in one piece, so that `token_times_s` says nothing about
            TTFT.
    """

    status: Status
    error: str
    http_status: int | None
    started_at: float
    body_bytes: int
    bytes_sent_s: float | None
    token_times_s: tuple[float, ...]
    ended_s: float
    text: str
    finish_reason: str | None
    usage: Usage | None
    streamed: bool


@dataclass(slots=True)
class _Observation:
    """The notes taken while an exchange is under way."""

    started: float
    http_status: int | None = None
    bytes_sent_s: float | None = None
    token_times_s: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage | None = None
    streamed: bool = True
    done: bool = False


class _EndedError(Exception):
    """The exchange is over for a reason other than a complete answer."""

    def __init__(self, status: Status, error: str) -> None:
        super().__init__(status, error)
        self.status = status
        self.error = error


class Client:
    """Sends pre-encoded requests to one server. Use as an async context manager.

    Every request makes a connection of its own: one left over from an earlier request may have been closed
    by the server meanwhile, and a broken request would then be our doing.

    Args:
        url: The server's address without `/v1`, such as `http://localhost:8000`.
        api_key: Sent as a bearer token; never printed.
        limits: How long to wait for what.
    """

    def __init__(self, url: str, *, api_key: str | None = None, limits: Limits | None = None) -> None:
        self._url = url
        self._limits = limits or Limits()
        self._headers = {"User-Agent": f"farspan/{__version__}", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_keep_alive_socket)
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self._limits.connect_s, sock_connect=self._limits.connect_s
        )
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self._headers, read_bufsize=2**18
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(
        self,
        api: Api,
        body: bytes | memoryview,
        *,
        deadline: float | None = None,
        on_first_token: Callable[[float], None] | None = None,
    ) -> Exchange:
        """Send one request and read its answer to the end. Failures are returned, never raised.

        Args:
            api: The API the body is for.
            body: The encoded body, sent in pieces of 1 MiB without copying.
            deadline: `time.perf_counter()` at which to give up whatever the limits say.
            on_first_token: Called with the TTFT in seconds when the first token arrives.
        """
        started_at = time.time()
        seen = _Observation(started=time.perf_counter())
        try:
            await self._exchange(api, body, seen, deadline, on_first_token)
            status, error = Status.OK, ""
        except _EndedError as end:
            status, error = end.status, end.error
        except (TimeoutError, aiohttp.ClientError, OSError) as failure:
            status, error = _read_failure(failure, seen, self._limits)
        return Exchange(
            status=status,
            error=error,
            http_status=seen.http_status,
            started_at=started_at,
            body_bytes=len(body),
            bytes_sent_s=seen.bytes_sent_s,
            token_times_s=tuple(seen.token_times_s),
            ended_s=time.perf_counter() - seen.started,
            text="".join(seen.texts),
            finish_reason=seen.finish_reason,
            usage=seen.usage,
            streamed=seen.streamed,
        )

    async def _exchange(
        self,
        api: Api,
        body: bytes | memoryview,
        seen: _Observation,
        deadline: float | None,
        on_first_token: Callable[[float], None] | None,
    ) -> None:
        assert self._session is not None, "use Client as an async context manager"
        loop = asyncio.get_running_loop()
        limits = self._limits

        def expires(limit: float | None) -> float | None:
            """Return the loop time at which a wait that begins now has lasted too long."""
            ends = [] if limit is None else [loop.time() + limit]
            if deadline is not None:
                ends.append(loop.time() + deadline - time.perf_counter())
            return min(ends, default=None)

        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        async with asyncio.timeout_at(expires(limits.first_token_s)) as limit:
            async with self._session.post(
                self._url + api.path, data=_pieces(body, seen), headers=headers, allow_redirects=False
            ) as response:
                seen.http_status = response.status
                if response.status != 200:
                    raise await _read_refusal(response)
                if response.content_type != "text/event-stream":
                    await _read_whole(response, seen)
                    return
                parser = SseParser()
                async for chunk in response.content.iter_any():
                    now = time.perf_counter() - seen.started
                    before = len(seen.token_times_s)
                    _take_chunk(parser, chunk, now, seen)
                    if len(seen.token_times_s) > before:
                        limit.reschedule(expires(limits.idle_s))
                        if before == 0 and on_first_token is not None:
                            on_first_token(now)
                    if seen.done:
                        return
        if seen.finish_reason is None:
            raise _EndedError(Status.CUT, f"the server closed the stream after {_heard(seen)}")


def _keep_alive_socket(address: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
    """Make a socket that notices a dead peer: for an hour before the first token no byte may arrive."""
    family, kind, protocol = address[:3]
    sock = socket.socket(family=family, type=kind, proto=protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 8)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock


async def _pieces(body: bytes | memoryview, seen: _Observation) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), SEND_CHUNK_BYTES):
        yield view[start : start + SEND_CHUNK_BYTES]
    # Reached when the transport has taken the last piece and drained to its low-water mark.
    seen.bytes_sent_s = time.perf_counter() - seen.started


async def _read_refusal(response: aiohttp.ClientResponse) -> _EndedError:
    try:
        words = read_error_body(await response.content.read(_ERROR_BODY_BYTES))
    except (aiohttp.ClientError, OSError):
        words = ""
    if 300 <= response.status < 400:
        words = f"redirected to {response.headers.get('Location', 'nowhere')}"
    status = Status.REFUSED if response.status < 500 else Status.SERVER_ERROR
    return _EndedError(status, f"HTTP {response.status}: {words or response.reason or 'no reason given'}")


async def _read_whole(response: aiohttp.ClientResponse, seen: _Observation) -> None:
    """Read an answer that the server did not stream, though it was asked to."""
    seen.streamed = False
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > _WHOLE_ANSWER_BYTES:
            raise _EndedError(Status.SERVER_ERROR, f"an answer of more than {_WHOLE_ANSWER_BYTES} bytes")
    try:
        event = read_message(orjson.loads(data))
    except (orjson.JSONDecodeError, MalformedEventError) as error:
        raise _EndedError(
            Status.SERVER_ERROR,
            f"the server answered {response.content_type}, neither an event stream nor an OpenAI answer",
        ) from error
    _take_event(event, time.perf_counter() - seen.started, seen)
    seen.done = True


def _take_chunk(parser: SseParser, chunk: bytes, now: float, seen: _Observation) -> None:
    try:
        for payload in parser.feed(chunk):
            _take_event(read_event(payload), now, seen)
    except (MalformedEventError, OversizedEventError) as error:
        raise _EndedError(Status.SERVER_ERROR, f"the server sent {error}") from error


def _take_event(event: AnswerEvent, now: float, seen: _Observation) -> None:
    if event.error is not None:
        raise _EndedError(Status.SERVER_ERROR, event.error)
    if event.has_token:
        seen.token_times_s.append(now)
        seen.texts.append(event.text)
    seen.finish_reason = event.finish_reason or seen.finish_reason
    seen.usage = event.usage or seen.usage
    seen.done = event.done


def _read_failure(failure: Exception, seen: _Observation, limits: Limits) -> tuple[Status, str]:
    """Say how an exchange ended that the network or a limit broke off."""
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return Status.UNREACHABLE, f"no connection within {limits.connect_s:g} s"
    if isinstance(failure, aiohttp.ClientConnectorError | aiohttp.InvalidURL):
        return Status.UNREACHABLE, _one_line(failure)
    if isinstance(failure, TimeoutError):
        waited = time.perf_counter() - seen.started
        return Status.TIMED_OUT, f"gave up after {waited:.1f} s and {_heard(seen)}"
    reason = "" if isinstance(failure, aiohttp.ServerDisconnectedError) else f" ({_one_line(failure)})"
    return Status.CUT, f"the connection broke after {_heard(seen)}{reason}"


def _heard(seen: _Observation) -> str:
    if seen.token_times_s:
        return f"{len(seen.token_times_s)} events with tokens"
    return "no token" if seen.http_status else "no answer"


def _one_line(failure: Exception) -> str:
    return " ".join(str(failure).split()) or type(failure).__name__
