"""One request on one connection: its body goes out on one thread while the answer is taken in on another.

Sending is done by the kernel, straight from the files' pages. Arrivals carry the kernel's own time stamp where it
gives one (Linux, without TLS): then a busy client delays no measure, and how late it was itself becomes one.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl
import time
from array import array
from collections.abc import Callable
from typing import BinaryIO

from farspan.measurement.http.answer import AnswerTape
from farspan.measurement.http.http1 import AnswerReader, MalformedAnswerError, OversizedAnswerError
from farspan.measurement.http.reactor import READ, WRITE, Callback, Reactor
from farspan.measurement.http.request_body import RequestBody
from farspan.measurement.http.timestamps import STAMP_ROOM, find_lag, read_clocks

SEND_BYTES = 2**19  # a turn's share: small enough that fifty bodies go out side by side
_TLS_SEND_BYTES = 2**16
_READ_BYTES = 2**18
_ERROR_BYTES = 64 * 2**10
_WHOLE_ANSWER_BYTES = 64 * 2**20


class Connection:
    """Sends a request and takes the answer in. All times are `time.perf_counter()`.

    Attributes:
        reader: The HTTP answer so far.
        tape: The event stream so far.
        whole: The body of an answer that is no event stream.
        sent_s: When this process noticed that the last byte of the body had been handed to the kernel: it may be
            later than the server's answer.
        latest_token_s: When the latest bytes with tokens arrived.
        first_token_s: When the first token arrived.
        ended_s: When the exchange was over; None while it is not.
        failure: What broke it off; an `OversizedAnswerError` when the answer outgrew `most_bytes` or `most_events`.
        lags_s: For every arrival with the kernel's stamp, how much later this process took it.
    """

    def __init__(
        self,
        sock: socket.socket,
        head: bytes,
        body: RequestBody,
        *,
        sender: Reactor,
        receiver: Reactor,
        on_change: Callable[[], None],
        most_bytes: int = _WHOLE_ANSWER_BYTES,
        most_events: int | None = None,
    ) -> None:
        self.reader = AnswerReader()
        self.tape = AnswerTape()
        self.whole = bytearray()
        self.sent_s: float | None = None
        self.latest_token_s: float | None = None
        self.first_token_s: float | None = None
        self.ended_s: float | None = None
        self.failure: Exception | None = None
        self.lags_s = array("d")
        self._sock = sock
        self._pieces = [head, *body.pieces]
        self._offset = 0
        self._file: BinaryIO | None = None
        self._tls = isinstance(sock, ssl.SSLSocket)
        # One SSL object must not be used by two threads at a time.
        self._sender = receiver if self._tls else sender
        self._receiver = receiver
        self._on_change = on_change
        self._latest_arrival_s = time.perf_counter()
        self._received = 0
        self._most_bytes = most_bytes
        self._most_events = most_events

    def start(self) -> None:
        """Begin to send and to listen."""
        if self._tls:
            callback = self._guard(self._on_tls_ready)
            self._receiver.call(lambda: self._receiver.watch(self._sock, READ | WRITE, callback))
            return
        reading, writing = self._guard(self._on_readable), self._guard(self._on_writable)
        self._receiver.call(lambda: self._receiver.watch(self._sock, READ, reading))
        self._sender.call(lambda: self._sender.watch(self._sock, WRITE, writing))

    def close(self, on_closed: Callable[[], None]) -> None:
        """Let go of the socket, whatever state the exchange is in; returns at once.

        Args:
            on_closed: Called from another thread when nothing of this connection changes any more.
        """

        def close_here() -> None:
            self._receiver.forget(self._sock)
            self._sock.close()
            on_closed()

        def stop_there() -> None:
            self._stop_sending()
            self._receiver.call(close_here)

        self._sender.call(stop_there)

    def _guard(self, callback: Callback) -> Callback:
        """Return a callback whose failure ends this exchange and leaves the thread to the others."""

        def guarded(ready: int) -> None:
            try:
                callback(ready)
            except Exception as error:  # noqa: BLE001 - the thread serves other requests too
                self._receiver.call(functools.partial(self._end, error))

        return guarded

    # On the sender's thread.

    def _on_writable(self, _ready: int) -> None:
        try:
            if self._send_some(SEND_BYTES):
                self.sent_s = time.perf_counter()
                self._stop_sending()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            # A server may answer and close before it has read everything: the answer says more than the broken pipe.
            self._stop_sending()
            if isinstance(error, FileNotFoundError):
                self._receiver.call(functools.partial(self._end, error))

    def _send_some(self, limit: int) -> bool:
        """Send a turn's share of the request; return True when nothing is left."""
        while self._pieces:
            piece = self._pieces[0]
            size = len(piece) if isinstance(piece, bytes) else piece.size
            if self._offset < size:
                count = min(limit, size - self._offset)
                if isinstance(piece, bytes):
                    self._offset += self._sock.send(memoryview(piece)[self._offset : self._offset + count])
                else:
                    if self._file is None:
                        self._file = piece.path.open("rb", buffering=0)
                    self._offset += self._send_file(self._file, count)
                if self._offset < size:
                    return False
            if self._file is not None:
                self._file.close()
                self._file = None
            self._pieces.pop(0)
            self._offset = 0
        return True

    def _send_file(self, file: BinaryIO, count: int) -> int:
        if self._tls:
            return self._sock.send(os.pread(file.fileno(), count, self._offset))
        sent = os.sendfile(self._sock.fileno(), file.fileno(), self._offset, count)
        if sent == 0:
            raise FileNotFoundError(f"{file.name} has become shorter while it was sent")
        return sent

    def _stop_sending(self) -> None:
        if not self._tls:
            self._sender.forget(self._sock)
        elif self.ended_s is None and self._pieces == []:
            self._receiver.watch(self._sock, READ, self._guard(self._on_tls_ready))
        if self._file is not None:
            self._file.close()
            self._file = None

    # On the receiver's thread.

    def _on_tls_ready(self, ready: int) -> None:
        if ready & WRITE and self._pieces:
            try:
                if self._send_some(_TLS_SEND_BYTES):
                    self.sent_s = time.perf_counter()
                    self._stop_sending()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError:
                self._pieces = []
                self._stop_sending()
        while self.ended_s is None:  # TLS may hold decoded bytes that the selector does not know of
            try:
                data = self._sock.recv(_READ_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._end(error)
                return
            self._take(data, time.perf_counter())

    def _on_readable(self, _ready: int) -> None:
        try:
            data, notes, _, _ = self._sock.recvmsg(_READ_BYTES, STAMP_ROOM)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        now, wall_ns = read_clocks()
        lag_s = find_lag(notes, wall_ns)
        if lag_s is not None:
            self.lags_s.append(lag_s)
            now -= lag_s
        # A wall clock that is being set may put two arrivals in the wrong order, or the first one before the request.
        now = self._latest_arrival_s = max(now, self._latest_arrival_s)
        self._take(data, now)

    def _take(self, data: bytes, at: float) -> None:
        if not data:
            whole = self.reader.end() or self.tape.ended
            self._end(None if whole else ConnectionResetError(), at)
            return
        early = self.reader.status is None
        self._received += len(data)
        try:
            body = self.reader.feed(data)
        except MalformedAnswerError as error:
            self._end(error, at)
            return
        if self.reader.status is None:
            if self._received > self._most_bytes:
                self._end(OversizedAnswerError(f"more than {self._most_bytes:,} bytes, and no answer"), at)
            return
        streamed = self.reader.status == 200 and self.reader.content_type == "text/event-stream"
        if early and self.reader.status != 200 and not self._tls:
            self._sender.call(self._stop_sending)
        if body and streamed:
            self._take_events(body, at)
        elif body:
            self.whole += body
            if self.reader.status != 200 and len(self.whole) > _ERROR_BYTES:
                self._end(None, at)
        if self.reader.complete or self.tape.ended:
            self._end(None, at)
        elif self._received > self._most_bytes:
            self._end(OversizedAnswerError(f"more than {self._most_bytes:,} bytes, and no end"), at)
        elif self._most_events is not None and self.tape.events > self._most_events:
            self._end(OversizedAnswerError(f"more than {self._most_events:,} events, and no end"), at)

    def _take_events(self, body: bytes, at: float) -> None:
        if self.tape.add(at, body):
            self.latest_token_s = at
            if self.first_token_s is None:
                self.first_token_s = at
                self._on_change()

    def _end(self, failure: Exception | None, at: float | None = None) -> None:
        if self.ended_s is None:
            self.failure = failure
            self.ended_s = time.perf_counter() if at is None else at
            self._receiver.forget(self._sock)
            self._on_change()
