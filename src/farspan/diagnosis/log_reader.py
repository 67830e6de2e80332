"""Reading a log as a stream: bytes in, typed events out, in bounded memory.

reader = LogReader()
for data in stream:
    for event in reader.feed(data):
        ...
for event in reader.close():
    ...
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from farspan.diagnosis.grammar import ENDINGS, MESSAGES, RULES
from farspan.diagnosis.log_line import WRAPPED, LineParser, raw_text, unwrap
from farspan.diagnosis.records import Event, LogMessage, Progress, StartPhase, Traffic, Where
from farspan.diagnosis.routine_lines import RoutineLines
from farspan.diagnosis.scan import Scanner, telling_lines

__all__ = ["LogReader"]

MAX_LINE = 1 << 20
_WINDOW = 1 << 18
_SHAPES = 8_192
_SHOWN = 64
_SHAPE = 400
_DIGITS = b"0123456789"
_ASKED = b' - "'  # between the address and the request of an access log

_REFUSED = (b"400 Bad", b"401 Una", b"403 For", b"404 Not", b"405 Met", b"413 ", b"422 Unp", b"429 Too",
            b"500 Int", b"502 Bad", b"503 Ser", b"504 Gat")  # fmt: skip
_BY_NEEDLE = {rule.needle: rule for rule in RULES}
_ORDER = {rule: number for number, rule in enumerate(RULES)}
_ENDINGS = dict(ENDINGS)


@lru_cache(maxsize=4)
def _scanner(needles: tuple[bytes, ...]) -> Scanner:
    """A scanner never changes once built, and building it costs more than reading a short log."""
    return Scanner(needles)


def _line_of(event: Event) -> int:
    return event.where.line


class LogReader:
    """Turns a log, however it is cut into pieces, into events.

    A line is read once its end has come; a progress bar's CR ends a line too, but only LF counts. A line longer
    than 1 MiB is read by its beginning. Of messages that differ in digits only, the first 64 are passed on one by
    one and the rest counted: `close` returns one more of each with the count. Memory is bounded whatever comes in.

    Args:
        needles: Bytes (four or more) that mark a line as worth a `LogMessage`, besides those the grammar knows and
            those of the rules.
    """

    def __init__(self, needles: Iterable[bytes] = ()) -> None:
        from farspan.diagnosis.noise import HARMLESS
        from farspan.diagnosis.rules import NEEDLES

        self._scanner = _scanner(
            (
                *(rule.needle for rule in RULES),
                *(needle for needle, _ in ENDINGS),
                *MESSAGES,
                *_REFUSED,
                *NEEDLES,
                *(harmless.needle.encode() for harmless in HARMLESS),
                *needles,
            )
        )
        self._parser = LineParser()
        self._daily = RoutineLines(self._parser)
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._dropping = False
        self._line = 1
        self._boring: set[bytes] = set()
        self._shapes: dict[bytes, int] = {}
        self._withheld: dict[bytes, tuple[LogMessage, int]] = {}
        self.bytes_read = 0

    @property
    def lines_read(self) -> int:
        """Complete lines so far."""
        return self._line - 1

    def feed(self, data: bytes) -> list[Event]:
        """Read more of the log and return what it says."""
        self.bytes_read += len(data)
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
        events.extend(message._replace(times=count) for message, count in self._withheld.values())
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
        """Read whole lines. Most are plain successes or of a shape known to say nothing, and cost next to nothing."""
        if b"{" in block and WRAPPED in block:  # one byte is found ten times as fast as seven
            unwrapped = (unwrap(raw) if raw.startswith(WRAPPED) else raw for raw in block.split(b"\n"))
            block = b"\n".join(unwrapped)
        first, boring, withheld = self._line, self._boring, self._withheld
        lines, total = telling_lines(block)
        self._line += total - 1
        answered = total - len(lines)
        if answered:
            events.append(Traffic(Where(first), answered))
        fresh = []
        before = len(events)
        read_daily = self._daily.read
        for at, raw in lines:
            number = first + at
            if read_daily(number, raw, events):
                continue
            # A progress bar writes over itself: each state is a line of its own.
            for part in raw.split(b"\r") if b"\r" in raw else (raw,):
                shape = part[:_SHAPE].translate(None, _DIGITS)
                if shape in withheld and _ASKED not in part:
                    self._withhold(shape)
                elif shape and shape not in boring:
                    fresh.append((number, part, shape))
        if not fresh:
            return
        out_of_order = len(events) > before
        candidates = self._scanner.candidates([raw for _, raw, _ in fresh])
        for at, (number, raw, shape) in enumerate(fresh):
            if candidates.get(at):
                self._read_line(number, raw, candidates[at], shape, events)
            elif len(boring) < _SHAPES and len(raw) <= _SHAPE:
                boring.add(shape)
        if out_of_order:
            events[before:] = sorted(events[before:], key=_line_of)

    def _read_line(
        self, number: int, raw: bytes, marks: tuple[bytes, ...], shape: bytes, events: list[Event]
    ) -> None:
        if _ASKED in raw and len(raw) < 4_000:
            access = self._daily.access(number, raw)
            if access is not None:
                events.append(access)
                return
        if shape in self._withheld:
            self._withhold(shape)
            return
        self._read_rest(number, raw, marks, shape, events)

    def _withhold(self, shape: bytes) -> None:
        message, count = self._withheld[shape]
        self._withheld[shape] = (message, count + 1)

    def _read_rest(
        self, number: int, raw: bytes, marks: tuple[bytes, ...], shape: bytes, events: list[Event]
    ) -> None:
        parsed = self._parser.parse(number, raw)
        for rule in sorted(
            (_BY_NEEDLE[mark] for mark in marks if mark in _BY_NEEDLE), key=_ORDER.__getitem__
        ):
            match = rule.pattern.search(parsed.text)
            if match is not None:
                events.extend(rule.make(parsed, match))
                return
        for mark in marks:
            phase = _ENDINGS.get(mark)
            if phase is not None:
                done = phase is StartPhase.DIED
                events.append(Progress(parsed.where, phase, done=done, text=parsed.text.strip()[:300]))
                break
        message = LogMessage(parsed.where, parsed.level, parsed.text.rstrip(), raw_text(raw), marks)
        events.append(message)
        seen = self._shapes.get(shape, 0)
        if seen or len(self._shapes) < _SHAPES:
            self._shapes[shape] = seen + 1
            if seen + 1 == _SHOWN:
                self._withheld[shape] = (message, 0)
