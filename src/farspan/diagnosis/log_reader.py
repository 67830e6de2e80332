"""Reading a log as a stream: bytes in, typed events out, in bounded memory.

reader = LogReader()
for data in stream:
    for event in reader.feed(data):
        ...
for event in reader.close():
    ...
"""

from __future__ import annotations

import re

from farspan.diagnosis.knowledge import knowledge
from farspan.engines.logs.log_line import WRAPPED, LineParser, raw_text, unwrap, without_colours
from farspan.engines.logs.records import Event, LogMessage, Traffic, Where

__all__ = ["MAX_LINE", "LogReader"]

MAX_LINE = 1 << 18
_WINDOW = 1 << 18
_SHAPES = 8_192
_SHOWN = 64
_SHAPE = 400
_SCANNED = 64_000
_FOLLOWED = 40
_DIGITS = b"0123456789"
_REQUEST = b' - "'
_LINE = re.compile(rb"[^\n]++")
# How a line of uvicorn's access log ends that tells of a plain success, with and without colours.
_SUCCESS = (b'" 200 OK', b'" 200 OK\r', b"200 OK\x1b[0m", b"200 OK\x1b[0m\r")
# After these, lines that nobody knows belong to an error's text: a compiler's output, a message of several lines.
_BEGINS_TEXT = (b"Traceback (most recent call last)", b"ERROR", b"Error", b"CRITICAL", b"usage: ", b'File "')


class LogReader:
    """Turns a log, however it is cut into pieces, into events.

    A line is read once its end has come; a progress bar's CR ends a line too, but only LF counts. A line longer
    than 256 KiB is read by its beginning. Of messages that differ in digits only, the first 64 are passed on one by
    one and the rest counted: `close` returns one more of each with the count. Memory is bounded whatever comes in.
    """

    def __init__(self) -> None:
        self._known = knowledge()
        self._parser = LineParser()
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._dropping = False
        self._line = 1
        self._answered = 0
        self._following = 0
        self._shapes: dict[bytes, int] = {}
        self._withheld: dict[bytes, tuple[LogMessage, int]] = {}

    @property
    def lines_read(self) -> int:
        """Complete lines so far."""
        return self._line - 1

    def feed(self, data: bytes) -> list[Event]:
        """Read more of the log and return what it says."""
        events: list[Event] = []
        for at in range(0, len(data), _WINDOW):
            self._feed_window(data[at : at + _WINDOW], events)
        return events

    def close(self) -> list[Event]:
        """Read the last, unfinished line, and return the counts of what was withheld."""
        events: list[Event] = []
        if self._pending:
            self._read(b"".join(self._pending), events)
            self._pending, self._pending_size = [], 0
        events.extend(message._replace(times=count) for message, count in self._withheld.values() if count)
        self._withheld.clear()
        return events

    def _feed_window(self, data: bytes, events: list[Event]) -> None:
        cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if not cut:
            self._hold(data, events)
            return
        if self._dropping:
            # The rest of an over-long line goes; its end stays, so that lines are counted right.
            ends = [at for at in (data.find(b"\n"), data.find(b"\r")) if at >= 0]
            block = data[min(ends) : cut]
            self._dropping = False
        else:
            block = b"".join((*self._pending, data[:cut]))
        self._pending, self._pending_size = [], 0
        self._read(block, events)
        if cut < len(data):
            self._hold(data[cut:], events)

    def _hold(self, data: bytes, events: list[Event]) -> None:
        if self._dropping:
            return
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size > MAX_LINE:
            self._read(b"".join(self._pending), events)
            self._pending, self._pending_size = [], 0
            self._dropping = True

    def _read(self, block: bytes, events: list[Event]) -> None:
        first, counted = self._line, 0
        for match in _LINE.finditer(block):
            raw = match[0]
            if raw.endswith(_SUCCESS):
                self._answered += 1
                continue
            self._line += block.count(b"\n", counted, match.start())
            counted = match.start()
            if raw.startswith(WRAPPED):
                raw = unwrap(raw)
            if b"\x1b" in raw:
                raw = without_colours(raw)
            # A progress bar writes over itself: each state is a line of its own.
            for part in raw.split(b"\r") if b"\r" in raw else (raw,):
                if part:
                    self._read_line(part, events)
        self._line += block.count(b"\n", counted)
        if self._answered:
            events.append(Traffic(Where(first), self._answered))
            self._answered = 0

    def _read_line(self, raw: bytes, events: list[Event]) -> None:
        shape = raw[:_SHAPE].translate(None, _DIGITS)
        withheld = self._withheld.get(shape)
        if withheld is not None and _REQUEST not in raw:  # a refused request may have the shape of a message
            self._withheld[shape] = (withheld[0], withheld[1] + 1)
            return
        known = self._known
        candidates = known.patterns.candidates(raw[:_SCANNED])
        if not candidates and not self._following:
            return
        parsed = self._parser.parse(self._line, raw)
        for number in sorted(candidates):
            if number >= len(known.lines):
                break
            kind = known.lines[number]
            match = kind.pattern.search(parsed.text)
            if match is not None:
                events.extend(kind.make(parsed, match))
                if not kind.is_message:
                    return
                break
        self._follow(raw, bool(candidates))
        if withheld is not None:
            self._withheld[shape] = (withheld[0], withheld[1] + 1)
            return
        rules = tuple(number for number in candidates if number >= len(known.lines))
        message = LogMessage(parsed.where, parsed.level, parsed.text.rstrip(), raw_text(raw), rules)
        events.append(message)
        seen = self._shapes.get(shape, 0)
        if seen or len(self._shapes) < _SHAPES:
            self._shapes[shape] = seen + 1
            if seen + 1 == _SHOWN:
                self._withheld[shape] = (message, 0)

    def _follow(self, raw: bytes, is_known: bool) -> None:
        if is_known and any(word in raw for word in _BEGINS_TEXT):
            self._following = _FOLLOWED
        elif self._following:
            self._following -= 1
