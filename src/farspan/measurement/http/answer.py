"""A streamed answer, kept as bytes with their arrival times while it comes, and read when it is over.

While the stream runs only two things are looked for: the first token, event by event until it is there, and the
mark that ends the stream. Everything else is decoded once, in one go, with nobody waiting for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from farspan.measurement.http.sse import OversizedEventError, SseParser, read_stream
from farspan.measurement.http.wire import (
    AnswerEvent,
    MalformedEventError,
    Usage,
    check_token_ids,
    read_event,
)

# Bytes that may wait to be read: past this much they are read at once, so that an endless answer is bounded.
_WAITING_BYTES = 8 * 2**20
_PIECE_BYTES = 100  # what a piece takes beside its bytes
_END = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*[\r\n]")
_TAIL_BYTES = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """What a streamed answer says; `token_times_s` has the arrival of every event that carried tokens.

    `error` is the server's own, or says what is wrong with the stream; `done` is true when it ended with its mark.
    `token_ids` are the answer's, where they were asked for and the server tells them.
    """

    token_times_s: tuple[float, ...] = ()
    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    error: str = ""
    done: bool = False
    token_ids: tuple[int, ...] = ()


class AnswerTape:
    """Takes the pieces of a stream as they arrive; `read` decodes them.

    `has_token` turns true with the piece that brings the first token, `ended` with the piece that brings the
    mark of the end; `oversized` when a single event outgrows what is kept. `events` counts the events so far, at least.
    """

    def __init__(self) -> None:
        self.has_token = False
        self.ended = False
        self.oversized = False
        self.events = 0
        self._times: list[float] = []
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._tail = b""
        self._scout: SseParser | None = SseParser()
        self._reader = _Reader()

    def add(self, time_s: float, piece: bytes) -> bool:
        """Take the bytes that arrived at `time_s`; return True when they may hold a token."""
        self._times.append(time_s)
        self._pieces.append(piece)
        self._waiting_bytes += len(piece) + _PIECE_BYTES
        self.events += piece.count(b"data:")
        if self._scout is not None:
            self._look_for_token(self._scout, piece)
        if self._tail or not piece.endswith(b"}\n\n"):  # the mark is not JSON, but it may come in parts
            tail = self._tail + piece[-_TAIL_BYTES:]
            self.ended = self.ended or _END.search(tail) is not None
            self._tail = b"" if tail.endswith(b"\n\n") else tail[-_TAIL_BYTES:]
        if self._waiting_bytes > _WAITING_BYTES and not self.ended:
            self._read_waiting()
        return self.has_token and b"data" in piece

    def read(self) -> Answer:
        """Decode what has arrived; an event that the end cut off does not count."""
        self._read_waiting()
        return self._reader.answer()

    def _look_for_token(self, scout: SseParser, piece: bytes) -> None:
        try:
            events = [read_event(payload) for payload in scout.feed(piece)]
        except (MalformedEventError, OversizedEventError) as error:
            self._scout, self.ended = None, True  # said by `read`
            self.oversized = isinstance(error, OversizedEventError)
            return
        if any(event.error is not None for event in events):
            self._scout, self.ended = None, True
        if any(event.has_token for event in events):
            self._scout, self.has_token = None, True

    def _read_waiting(self) -> None:
        if self._pieces and self._pieces[-1].endswith(b"\n\n"):
            self._reader.take(self._pieces, self._times)
            self._pieces, self._times, self._waiting_bytes = [], [], 0
            return
        # An unfinished event is left for later: everything up to the last empty line goes now.
        if not self._pieces:
            return
        held = b"".join(self._pieces)
        cut = max(held.rfind(b"\n\n"), held.rfind(b"\r\n\r\n") + 1, held.rfind(b"\r\r")) + 2
        if cut < 3:
            if len(held) > _WAITING_BYTES:
                self._reader.fail(f"an event of more than {_WAITING_BYTES} bytes")
                self.ended = self.oversized = True
                self._pieces, self._times, self._waiting_bytes = [], [], 0
                return
            # Many small pieces, no event yet: as one piece they take their bytes and no more.
            self._pieces, self._times = [held], [self._times[-1]]
            self._waiting_bytes = len(held) + _PIECE_BYTES
            return
        taken, times = _split(self._pieces, self._times, cut)
        self._pieces, self._times = taken[1], times[1]
        self._waiting_bytes = len(held) - cut + _PIECE_BYTES * len(self._pieces)
        self._reader.take(taken[0], times[0])


class _Reader:
    """The answer as far as it is decoded."""

    def __init__(self) -> None:
        self._token_times: list[float] = []
        self._texts: list[str] = []
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._error = ""
        self._done = False
        self._token_ids: list[Any] = []

    def answer(self) -> Answer:
        return Answer(
            tuple(self._token_times),
            "".join(self._texts),
            self._finish,
            self._usage,
            self._error,
            self._done,
            check_token_ids(self._token_ids),
        )

    def fail(self, error: str) -> None:
        self._error = self._error or f"the server sent {error}"

    def take(self, pieces: list[bytes], times: list[float]) -> None:
        if self._error or self._done:
            return
        try:
            payloads, places = read_stream(pieces)
            self._take_payloads(payloads, [times[place] for place in places])
        except (MalformedEventError, OversizedEventError) as error:
            self.fail(str(error))

    def _take_payloads(self, payloads: list[bytes], times: list[float]) -> None:
        for payload, time_s in zip(payloads, times, strict=True):
            self._take_event(read_event(payload), time_s)
            if self._error or self._done:
                return

    def _take_event(self, event: AnswerEvent, time_s: float) -> None:
        if event.error is not None:
            self._error = event.error
            return
        before = self._usage.output_tokens if self._usage else None
        counted = event.usage.output_tokens if event.usage else None
        new = not event.whole or before is None or counted is None or counted > before
        if event.has_token and new:
            self._token_times.append(time_s)
        if event.whole:
            self._texts[:] = [event.text]
            self._token_ids[:] = event.token_ids
        else:
            if event.text:
                self._texts.append(event.text)
            self._token_ids += event.token_ids
        self._finish = event.finish_reason or self._finish
        self._usage = event.usage or self._usage
        self._done = event.done


def _split(
    pieces: list[bytes], times: list[float], cut: int
) -> tuple[tuple[list[bytes], list[bytes]], tuple[list[float], list[float]]]:
    """Split pieces and their times at byte `cut`; a piece across it is in both halves, at the same time."""
    at = 0
    for index, piece in enumerate(pieces):
        if at + len(piece) >= cut:
            inside = cut - at
            rest = piece[inside:]
            head = [*pieces[:index], piece[:inside]]
            tail = ([rest] if rest else []) + pieces[index + 1 :]
            return (head, tail), (times[: index + 1], times[index + (0 if rest else 1) :])
        at += len(piece)
    return (pieces, []), (times, [])
