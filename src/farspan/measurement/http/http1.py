"""HTTP/1.1 as a client of one request a connection needs it: the request's head, and reading an answer.

No sockets here: bytes in, bytes out, so that whoever reads the socket can note when the bytes came.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from ipaddress import ip_address

_HEAD_BYTES = 256 * 2**10
_CHUNK_LINE_BYTES = 1024
_INTERIM_ANSWERS = 64  # of 1xx before the real one


class MalformedAnswerError(Exception):
    """What came is not an HTTP/1.1 answer."""


class OversizedAnswerError(MalformedAnswerError):
    """An answer has outgrown what was asked for: more bytes or events than it can need."""


def write_head(host: str, port: int, path: str, headers: Mapping[str, str], *, body_bytes: int) -> bytes:
    """Return the head of a POST request of `body_bytes` bytes, on a connection of its own.

    Raises:
        MalformedAnswerError: A header holds a line break.
    """
    try:
        named = f"[{host}]" if ip_address(host).version == 6 else host
    except ValueError:
        named = host
    lines = [f"POST {path} HTTP/1.1", f"Host: {named}:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {body_bytes}", "Connection: close"]
    if any("\r" in line or "\n" in line for line in lines):
        raise MalformedAnswerError("a header holds a line break")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


class AnswerReader:
    """Reads one HTTP answer incrementally (RFC 9112, sections 4 to 7).

    Attributes:
        status: The status code; None until the head has come.
        reason: The reason phrase, or the standard's when the server leaves it out.
        headers: By lower-case name; of repeated ones the last.
        complete: True when the whole body has come.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.complete = False
        self._buffer = b""
        self._head = bytearray()
        self._searched = 0  # bytes of the head in which its end is not
        self._interim = 0
        self._chunked = False
        self._left: int | None = None  # bytes of the body, or of the chunk, still to come
        self._trailing = False
        self._trailer_bytes = 0

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return those of the body among them.

        Raises:
            MalformedAnswerError: They are not an HTTP answer.
        """
        if self.complete:
            return b""
        if self.status is None:
            self._head += data
            if not self._take_heads():
                return b""
            data = bytes(self._head)
            self._head.clear()
        if self._chunked:
            return self._take_chunks(data)
        if self._left is None:
            return data
        taken = data[: self._left]
        self._left -= len(taken)
        self.complete = self._left == 0
        return taken

    def end(self) -> bool:
        """Tell the reader that the server has closed; return whether the answer is whole."""
        if self.status is not None and not self._chunked and self._left is None:
            self.complete = True
        return self.complete

    def _take_heads(self) -> bool:
        """Take answers of 1xx, which come before the real one, and the head of that; False when more is to come."""
        while self.status is None:
            end = self._head.find(b"\r\n\r\n", max(0, self._searched - 3))
            if (len(self._head) if end < 0 else end) > _HEAD_BYTES:
                raise OversizedAnswerError(f"a head of more than {_HEAD_BYTES} bytes")
            if end < 0:
                if not b"HTTP/1.".startswith(self._head[:7]):
                    raise MalformedAnswerError("something that is not HTTP")
                self._searched = len(self._head)
                return False
            head = self._head[:end].decode("latin-1")
            del self._head[: end + 4]
            self._searched = 0
            self._read_head(head)
            self._interim += 1
            if self._interim > _INTERIM_ANSWERS:
                raise OversizedAnswerError(f"more than {_INTERIM_ANSWERS} answers before the answer")
        return True

    def _read_head(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        version, _, rest = first.partition(" ")
        code, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or len(code) != 3 or not code.isdecimal():
            raise MalformedAnswerError("something that is not HTTP")
        status = int(code)
        if 100 <= status < 200:
            return
        self.headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        self.reason = reason.strip() or (HTTPStatus(status).phrase if status in _KNOWN else "")
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length")
        if not self._chunked and length is not None:
            if not length.isdecimal():
                raise MalformedAnswerError(f"a content length of {length!r}")
            self._left = int(length)
        if status in (204, 304):
            self._chunked, self._left = False, 0
        self.complete = self._left == 0
        self.status = status

    def _take_chunks(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        at = 0
        while at < len(data) and not self.complete:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._buffer = data[at:]
                if len(self._buffer) > _CHUNK_LINE_BYTES:
                    raise MalformedAnswerError("a chunk without a size")
                break
            line = data[at:end]
            at = end + 2
            if self._trailing:
                self.complete = not line
                self._trailer_bytes += len(line) + 2
                if self._trailer_bytes > _HEAD_BYTES:
                    raise OversizedAnswerError(f"trailers of more than {_HEAD_BYTES} bytes")
            elif self._left == 0 and not line:
                self._left = None  # the empty line after a chunk's bytes
            else:
                self._left = _read_size(line)
                self._trailing = self._left == 0
        return b"".join(pieces)


_KNOWN = frozenset(int(status) for status in HTTPStatus)


def _read_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        size = int(digits, 16) if digits.isalnum() else -1
    except ValueError:
        size = -1
    if size < 0:
        raise MalformedAnswerError(f"a chunk size of {digits[:40]!r}")
    return size
