"""One streamed request against a server, observed: what was sent and received, and exactly when.

The clock starts before the connection is made and before the first byte of the body leaves. Nothing is encoded or
decoded while requests are under way but the answers' events up to their first token; sending and receiving have
threads of their own, so that what the event loop does in between delays neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
from yarl import URL

from farspan import __version__
from farspan.measurement.http.connection import Connection
from farspan.measurement.http.http1 import OversizedAnswerError, write_head
from farspan.measurement.http.outcome import is_streamed, judge, one_line
from farspan.measurement.http.reactor import Reactor
from farspan.measurement.http.request_body import RequestBody
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.timestamps import KeepStamping, ask_for_stamps
from farspan.measurement.http.wire import Api, Usage
from farspan.sizes import format_seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds, and how much of an answer to take; None waits for ever. There is no time limit on a
    whole answer: 10M tokens take an hour.

    Args:
        connect_s: Until the connection stands.
        first_token_s: From the start until the first token.
        idle_s: Between two tokens.
        answer_bytes: Most bytes of an answer, its head included.
        answer_events: Most events of a stream; None is no bound.
    """

    connect_s: float | None = 10.0
    first_token_s: float | None = None
    idle_s: float | None = None
    answer_bytes: int = 64 * 2**20
    answer_events: int | None = None

    def for_output(self, tokens: int) -> Self:
        """Return the limits of an answer of so many tokens: a server that goes on and on is left.

        An event takes a few hundred bytes; SGLang's /generate repeats the whole answer in every event.
        """
        most_bytes = 16 * 2**20 + tokens * (16 * 2**10 + 64 * tokens)
        return replace(self, answer_bytes=most_bytes, answer_events=1024 + 16 * tokens)


@dataclass(frozen=True, slots=True)
class Lag:
    """How late this process was, in seconds."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, lags_s: array[float]) -> Self | None:
        """Sum lags up; None when there are none."""
        if not lags_s:
            return None
        values = np.frombuffer(lags_s)
        p50, p99 = np.percentile(values, (50, 99))
        return cls(float(p50), float(p99), float(values.max()))


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one request did, as the client saw it. Times are seconds since the request's start.

    Args:
        status: How it ended, before anyone checked the count or the answer.
        error: Why, in one line; the server's own words when it gave any.
        started_at: Wall clock at the start, seconds since the epoch.
        bytes_sent_s: When the last byte of the body was handed to the kernel, at the latest; None when that never
            happened. Never later than the first token, or than an answer in one piece.
        token_times_s: Arrival of every event that carried tokens.
        ended_s: When the exchange was over.
        text: The whole reply.
        streamed: False when the server answered in one piece, so that `token_times_s` says nothing about
            TTFT.
        started_s: The start on `time.perf_counter()`'s clock.
        connected_s: When the connection stood.
        clock_jump_s: How far the wall clock moved against the steady one meanwhile.
        oversized: Whether the answer outgrew the limits and was left.
        token_ids: Of the reply, where they were asked for and the server tells them.
        lag: The client's own; None where the kernel gives no time stamps: then arrivals are timed by this process.
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
    started_s: float = 0.0
    connected_s: float | None = None
    clock_jump_s: float = 0.0
    lag: Lag | None = None
    oversized: bool = False
    token_ids: tuple[int, ...] = ()


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
        address = URL(url)
        self._host = address.host or ""
        self._port = address.port or 80
        self._path = address.raw_path.rstrip("/")
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._limits = limits or Limits()
        self._headers = {
            "User-Agent": f"farspan/{__version__}",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
        }
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._threads = ExitStack()
        self._sender = Reactor("farspan-send")
        self._receiver = Reactor("farspan-receive")
        self._given_up = False
        self._waiting: set[asyncio.Event] = set()

    async def __aenter__(self) -> Self:
        if self._tls is None:
            self._threads.enter_context(KeepStamping())
        self._threads.enter_context(self._receiver)
        self._threads.enter_context(self._sender)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.close()

    async def send(
        self,
        api: Api,
        body: RequestBody | bytes,
        *,
        deadline: float | None = None,
        limits: Limits | None = None,
        on_first_token: Callable[[float], None] | None = None,
    ) -> Exchange:
        """Send one request and read its answer to the end. Failures are returned, never raised.

        Args:
            api: The API the body is for.
            body: The encoded body.
            deadline: `time.perf_counter()` at which to give up whatever the limits say.
            limits: Instead of the client's own.
            on_first_token: Called with the TTFT in seconds when the first token arrives.
        """
        body = RequestBody((body,)) if isinstance(body, bytes) else body
        limits = limits or self._limits
        started_at, started = time.time(), time.perf_counter()
        try:
            async with asyncio.timeout(_soonest(limits.connect_s, deadline)):
                sock = await self._connect()
        except (TimeoutError, OSError) as failure:
            return _never_connected(failure, limits, started_at, started, body.size)
        connected_s = time.perf_counter() - started
        changed, closed = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def set_from_thread(event: asyncio.Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has gone: so has whoever was waiting
                loop.call_soon_threadsafe(event.set)

        head = write_head(self._host, self._port, self._path + api.path, self._headers, body_bytes=body.size)
        connection = Connection(
            sock,
            head,
            body,
            sender=self._sender,
            receiver=self._receiver,
            on_change=functools.partial(set_from_thread, changed),
            most_bytes=limits.answer_bytes,
            most_events=limits.answer_events,
        )
        connection.start()
        self._waiting.add(changed)
        limit = ""
        try:
            await self._wait(connection, changed, started, limits, deadline, on_first_token)
        except TimeoutError as passed:
            limit = str(passed)
        finally:
            ended = connection.ended_s or time.perf_counter()
            self._waiting.discard(changed)
            connection.close(functools.partial(set_from_thread, closed))
        await closed.wait()
        # A long answer takes a while to decode: not on the event loop's time.
        answer = await asyncio.to_thread(connection.tape.read)
        status, error, answer = judge(connection, answer, limit, ended - started)
        jump = (time.time() - started_at) - (time.perf_counter() - started)
        return Exchange(
            status=status,
            error=error,
            http_status=connection.reader.status,
            started_at=started_at,
            body_bytes=body.size,
            bytes_sent_s=_since(started, _sent_by(connection)),
            token_times_s=tuple(time_s - started for time_s in answer.token_times_s)
            if is_streamed(connection)
            else (ended - started,) * bool(answer.text),
            ended_s=ended - started,
            text=answer.text,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            streamed=is_streamed(connection),
            started_s=started,
            connected_s=connected_s,
            clock_jump_s=jump,
            lag=Lag.of(connection.lags_s),
            oversized=connection.tape.oversized or isinstance(connection.failure, OversizedAnswerError),
            token_ids=answer.token_ids,
        )

    def give_up(self) -> None:
        """End every request under way as timed out; those sent later end so too."""
        self._given_up = True
        for changed in self._waiting:
            changed.set()

    async def _connect(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        for family, kind, protocol, _, address in found:
            sock = _make_socket(family, kind, protocol)
            try:
                await loop.sock_connect(sock, address)
                if self._tls is None:
                    return sock
                return await _shake_hands(sock, self._tls, self._host)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure or OSError(f"{self._host} has no address")

    async def _wait(
        self,
        connection: Connection,
        changed: asyncio.Event,
        started: float,
        limits: Limits,
        deadline: float | None,
        on_first_token: Callable[[float], None] | None,
    ) -> None:
        """Wait until the exchange is over.

        Raises:
            TimeoutError: A limit or the deadline has passed; its words say which.
        """
        reported = False
        while connection.ended_s is None:
            first, latest = connection.first_token_s, connection.latest_token_s
            if first is not None and not reported:
                reported = True
                if on_first_token is not None:
                    on_first_token(first - started)
            since, limit = (started, limits.first_token_s) if latest is None else (latest, limits.idle_s)
            own = None if limit is None else since + limit - time.perf_counter()
            left = _soonest(own, deadline)
            if self._given_up:
                raise TimeoutError("the run was stopped")
            if left is not None and left <= 0:
                if own is None or own > left or limit is None:
                    raise TimeoutError("the run's time was up")
                what = "for the first token" if latest is None else "between two tokens"
                raise TimeoutError(f"the limit is {format_seconds(limit)} {what}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await changed.wait()
                    changed.clear()
        if connection.first_token_s is not None and not reported and on_first_token is not None:
            on_first_token(connection.first_token_s - started)


def _sent_by(connection: Connection) -> float | None:
    """Return when the body had been sent, at the latest; None when it never was.

    The sender notes the time after the kernel has taken the last bytes, and on a busy machine it may be run late. The
    kernel's stamp on the answer is not late, and no token comes before its prompt.
    """
    if connection.sent_s is None or connection.reader.status != 200:
        return connection.sent_s
    answered = connection.first_token_s or connection.ended_s
    return connection.sent_s if answered is None else min(connection.sent_s, answered)


def _since(started: float, at: float | None) -> float | None:
    return None if at is None else at - started


def _soonest(left_s: float | None, deadline: float | None) -> float | None:
    """Return the shorter of a time left and the time until a deadline; None when there is neither."""
    ends = [] if left_s is None else [left_s]
    if deadline is not None:
        ends.append(deadline - time.perf_counter())
    return min(ends, default=None)


def _make_socket(family: int, kind: int, protocol: int) -> socket.socket:
    """Make a socket that notices a dead peer: for an hour before the first token no byte may arrive."""
    sock = socket.socket(family=family, type=kind, proto=protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 8)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    ask_for_stamps(sock)
    return sock


async def _shake_hands(sock: socket.socket, context: ssl.SSLContext, host: str) -> socket.socket:
    wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    loop = asyncio.get_running_loop()
    while True:
        ready = loop.create_future()
        done = functools.partial(_resolve, ready)
        try:
            wrapped.do_handshake()
            return wrapped
        except ssl.SSLWantReadError:
            loop.add_reader(wrapped, done)
        except ssl.SSLWantWriteError:
            loop.add_writer(wrapped, done)
        except OSError:
            wrapped.close()
            raise
        try:
            await ready
        except BaseException:
            loop.remove_reader(wrapped)
            loop.remove_writer(wrapped)
            wrapped.close()
            raise
        loop.remove_reader(wrapped)
        loop.remove_writer(wrapped)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _never_connected(
    failure: Exception, limits: Limits, started_at: float, started: float, size: int
) -> Exchange:
    late = isinstance(failure, TimeoutError) and not str(failure)
    waited = time.perf_counter() - started
    limit = waited if limits.connect_s is None else min(waited, limits.connect_s)
    error = f"no connection within {limit:.3g} s" if late else one_line(failure)
    return Exchange(
        Status.UNREACHABLE, error, None, started_at, size, None, (), waited, "", None, None, True, started
    )
