"""Server-sent events, incrementally: bytes in as they arrive, event payloads out.

Follows the WHATWG HTML standard, section 9.2.6 ("Interpreting an event stream"), for what a client of an
LLM server needs: the `data` field. Event names, ids and retry times are read over, as no OpenAI-compatible
server uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

_BOM = b"\xef\xbb\xbf"


class OversizedEventError(Exception):
    """The stream holds an event longer than the parser was told to accept; it is not an event stream."""


class SseParser:
    """Turns chunks of an event stream, split anywhere, into the payloads of its events.

    Lines may end in LF, CRLF or CR. Several `data` lines of one event are joined by LF. Comments and
    unknown fields are skipped. Bytes are not decoded: whoever reads the payload decides what is valid. An
    event that the stream's end cuts off is never returned, as the standard asks.

    Args:
        max_event_bytes: Longest event accepted, so that a peer that never ends a line cannot fill the memory.
    """

    def __init__(self, max_event_bytes: int = 16 * 2**20) -> None:
        self._max_event_bytes = max_event_bytes
        self._pieces: list[
            bytes
        ] = []  # the unfinished last line, unjoined so that long lines cost linear time
        self._data: list[bytes] = []  # data lines of the unfinished event
        self._held_bytes = 0  # bytes in _pieces and _data
        self._after_cr = False  # the last chunk ended in CR: an LF now belongs to it
        self._first_line = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes of the stream and return the payloads of the events they complete.

        Raises:
            OversizedEventError: An unfinished event has outgrown `max_event_bytes`.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

        first, newline, rest = chunk.partition(b"\n")
        self._pieces.append(first)
        self._held_bytes += len(first)
        events: list[bytes] = []
        if newline:
            lines = rest.split(b"\n")
            lines.insert(0, b"".join(self._pieces))
            self._pieces = [lines.pop()]
            for line in lines:
                if line:
                    self._take_line(line)
                else:
                    self._first_line = False
                    if self._data:
                        events.append(b"\n".join(self._data))
                        self._data.clear()
            self._held_bytes = sum(map(len, self._pieces)) + sum(map(len, self._data))
        if self._held_bytes > self._max_event_bytes:
            raise OversizedEventError(f"an event of more than {self._max_event_bytes} bytes")
        return events

    def _take_line(self, line: bytes) -> None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            self._data.append(b"")


def read_stream(pieces: Sequence[bytes]) -> tuple[list[bytes], list[int]]:
    """Return the payloads of a whole stream's events, and for each the index of the piece that completed it.

    What servers send, one `data: ` line and one empty line an event with LF for line ends, is split at once;
    anything else goes through `SseParser`. Both give the same for the same stream.

    Args:
        pieces: The stream as it arrived.

    Raises:
        OversizedEventError: It is not an event stream.
    """
    stream = b"".join(pieces)
    body, _, _torn = stream.rpartition(b"\n\n")
    payloads = body[6:].split(b"\n\ndata: ")
    plain = body.startswith(b"data: ") and b"\r" not in stream and body.count(b"\n") == 2 * len(payloads) - 2
    if not plain:
        return _parse_pieces(pieces)
    ends = np.cumsum([len(payload) + 8 for payload in payloads])
    arrived = list(accumulate(map(len, pieces)))
    return payloads, np.searchsorted(arrived, ends).tolist()


def _parse_pieces(pieces: Sequence[bytes]) -> tuple[list[bytes], list[int]]:
    parser = SseParser()
    payloads: list[bytes] = []
    places: list[int] = []
    for place, piece in enumerate(pieces):
        for payload in parser.feed(piece):
            payloads.append(payload)
            places.append(place)
    return payloads, places
