"""What the server and the engine's process say to each other: messages of a JSON header and bytes, over a socket.

From the server: `generate` with a prompt's token ids, `abort`, `reset`, `metrics`. From the engine: `ready` or an error
once it has loaded, then `accepted`, `tokens`, `failed` and `metrics`. Either side that closes the socket ends the
other's business with it.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any, NamedTuple

import orjson

from farspan.errors import CheckpointError, FarspanError, InputError, KVError, MissingPackageError
from farspan.kv.interface import KVCacheError, KVCacheShrunkError

HEAD = struct.Struct("<IQ")


class EngineStoppedError(FarspanError):
    """The engine no longer runs."""


class RequestFailedError(FarspanError):
    """The engine could not finish this request; others go on."""


class RequestNoRoomError(RequestFailedError):
    """Memory that was there when this request was queued has been taken by others; it may be sent again."""


_ERRORS: dict[str, type[FarspanError]] = {
    kind.__name__: kind
    for kind in (
        CheckpointError,
        MissingPackageError,
        InputError,
        KVCacheShrunkError,
        KVCacheError,
        KVError,
        EngineStoppedError,
        RequestNoRoomError,
        RequestFailedError,
        FarspanError,
    )
}


class Message(NamedTuple):
    """One message.

    Attributes:
        header: What it is about.
        payload: What is too large or too plain for JSON.
    """

    header: dict[str, Any]
    payload: bytearray | bytes


def pack_head(header: dict[str, Any], payload_bytes: int = 0) -> bytes:
    """Return the bytes of a message that come before its payload."""
    text = orjson.dumps(header)
    return HEAD.pack(len(text), payload_bytes) + text


def pack_error(error: FarspanError) -> dict[str, str]:
    """Return an error as a header's value; of kinds the other side does not know, the nearest it does."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
    return {"kind": kind, "message": error.message, "fix": error.fix}


def unpack_error(value: dict[str, str]) -> FarspanError:
    """Return the error that `pack_error` was given."""
    return _ERRORS[value["kind"]](value["message"], value["fix"])


def engine_stopped() -> EngineStoppedError:
    """Return the error of who asks an engine that has ended."""
    return EngineStoppedError("the engine has stopped", "restart the server and look at its log")


class EngineChannel:
    """The engine's end of the socket: any thread may send, one receives.

    Args:
        connection: The socket, blocking.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Send a message; to a server that is gone, nothing."""
        with self._sending:
            try:
                self._connection.sendall(pack_head(header, len(payload)) + payload)
            except OSError:
                self.end()

    def receive(self) -> Message | None:
        """Return the next message; None when the other side has closed, or `end` was called."""
        head = self._read(HEAD.size)
        if head is None:
            return None
        header_bytes, payload_bytes = HEAD.unpack(head)
        header, payload = self._read(header_bytes), self._read(payload_bytes)
        return None if header is None or payload is None else Message(orjson.loads(header), payload)

    def end(self) -> None:
        """Wake who receives; nothing more goes through."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side was first

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()

    def _read(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._connection.recv_into(view)
            except OSError:
                count = 0
            if not count:
                return None
            view = view[count:]
        return data
