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
from collections.abc import Iterable

from farspan.doctor.grammar import ENDINGS, MESSAGES, RULES
from farspan.doctor.lines import LineParser, plain, raw_text
from farspan.doctor.records import (
    Access,
    Batch,
    Event,
    Message,
    Phase,
    Progress,
    Throughput,
    Traffic,
    Where,
)
from farspan.doctor.scan import Line, Scanner

__all__ = ["LogReader"]

MAX_LINE = 1 << 20
_WINDOW = 1 << 18
_SHAPES = 8_192
_SHOWN = 64
_DIGITS = b"0123456789"

_THROUGHPUT = re.compile(
    rb"(?:Engine (?P<engine>\d+): )?Avg prompt throughput: (?P<prompt>[\d.]+) tokens/s, "
    rb"Avg generation throughput: (?P<generation>[\d.]+) tokens/s, "
    rb"Running: (?P<running>\d+) reqs, Waiting: (?P<waiting>\d+) reqs"
    rb"(?:.{0,200}?KV cache usage: (?P<usage>[\d.]+)%)?"
)
_OWN_STAMP = re.compile(rb"^(?:\((?P<process>\w+) pid=\d+\) )?INFO (?P<stamp>\d\d-\d\d \d\d:\d\d:\d\d) ")
_BATCH = re.compile(
    r"(?P<kind>Prefill|Decode) batch(?: \[\d+\])?, (?:#new-seq: \d+, #new-token: (?P<new>\d+), "
    r"#cached-token: (?P<cached>\d+), )?(?P<rest>.*)"
)
_RUNNING = re.compile(r"#running-req: (\d+)")
_QUEUED = re.compile(r"#queue-req: (\d+)")
_USAGE = re.compile(r"usage: ([\d.]+)")
_ACCESS = re.compile(
    r"(?P<address>[\w.:%\[\]-]+?):\d+ - \"(?P<request>[^\"]{1,2000})\" (?P<status>[1-5]\d\d)\b"
)
_REFUSED = (b"400 Bad", b"401 Una", b"403 For", b"404 Not", b"405 Met", b"413 ", b"422 Unp", b"429 Too",
            b"500 Int", b"502 Bad", b"503 Ser", b"504 Gat")  # fmt: skip
_INVALID = b"Invalid HTTP request received"
_ALWAYS: tuple[bytes, ...] = (b"Avg prompt throughput", b"Prefill batch", b"Decode batch", _INVALID)


class LogReader:
    """Turns a log, however it is cut into pieces, into events.

    A line is read once its end has come. A line longer than 1 MiB is read by its beginning. Of messages that
    differ in digits only, the first 64 are passed on one by one and the rest counted: `close` returns one more
    of each with the count. Memory is bounded whatever comes in.

    Args:
        needles: Bytes (four or more) that mark a line as worth a `Message`, besides those the grammar knows and
            those of the rules.
    """

    def __init__(self, needles: Iterable[bytes] = ()) -> None:
        from farspan.doctor.noise import HARMLESS
        from farspan.doctor.rules import NEEDLES

        self._scanner = Scanner(
            [
                *(rule.needle for rule in RULES),
                *(needle for needle, _ in ENDINGS),
                *MESSAGES,
                *_REFUSED,
                *_ALWAYS,
                *NEEDLES,
                *(harmless.needle.encode() for harmless in HARMLESS),
                *needles,
            ]
        )
        self._parser = LineParser()
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._dropping = False
        self._line = 1
        self._shapes: dict[bytes, int] = {}
        self._withheld: dict[bytes, tuple[Message, int]] = {}
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
        events.extend(message._replace(count=count) for message, count in self._withheld.values())
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
        lines, feeds = self._scanner.candidates(block, self._line)
        for line in lines:
            self._read_line(line, events)
        answered = block.count(b" 200 OK")
        if answered:
            events.append(Traffic(Where(self._line), answered))
        self._line += feeds

    def _read_line(self, line: Line, events: list[Event]) -> None:
        raw = line.raw
        if b"Avg prompt throughput" in raw:
            throughput = self._throughput(line)
            if throughput is not None:
                events.append(throughput)
                return
        if b" batch" in raw and (b"Prefill batch" in raw or b"Decode batch" in raw):
            batch = self._batch(line)
            if batch is not None:
                events.append(batch)
                return
        if b' - "' in raw and len(raw) < 4_000:
            access = self._access(line)
            if access is not None:
                events.append(access)
                return
        shape = raw[:400].translate(None, _DIGITS)
        seen = self._shapes.get(shape, 0)
        if seen >= _SHOWN:
            message, count = self._withheld[shape]
            self._withheld[shape] = (message, count + 1)
            return
        self._read_rest(line, shape, seen, events)

    def _read_rest(self, line: Line, shape: bytes, seen: int, events: list[Event]) -> None:
        raw = line.raw
        parsed = self._parser.parse(line.number, raw)
        for rule in RULES:
            if rule.needle in raw:
                match = rule.pattern.search(parsed.text)
                if match is not None:
                    events.extend(rule.make(parsed, match))
                    return
        text = parsed.text.strip()
        for needle, phase in ENDINGS:
            if needle in raw:
                events.append(Progress(parsed.where, phase, done=phase is Phase.DIED, text=text[:300]))
                break
        message = Message(parsed.where, parsed.level, parsed.text.rstrip(), raw_text(raw))
        events.append(message)
        if seen or len(self._shapes) < _SHAPES:
            self._shapes[shape] = seen + 1
            if seen + 1 == _SHOWN:
                self._withheld[shape] = (message, 0)

    def _throughput(self, line: Line) -> Throughput | None:
        match = _THROUGHPUT.search(line.raw)
        if match is None:
            return None
        own = _OWN_STAMP.match(line.raw)
        if own is not None:
            process = own["process"]
            at = self._parser.yearless(own["stamp"].decode())
            where = Where(line.number, at, process.decode() if process else "")
        else:
            where = self._parser.parse(line.number, line.raw).where
        engine, prompt, generation, running, waiting, usage = match.groups()
        try:
            rates = float(prompt), float(generation)
            used = float(usage) / 100 if usage else 0.0
        except ValueError:
            return None
        return Throughput(where, *rates, int(running), int(waiting), used, engine.decode() if engine else "")

    def _batch(self, line: Line) -> Batch | None:
        parsed = self._parser.parse(line.number, line.raw)
        match = _BATCH.match(parsed.text)
        if match is None:
            return None
        rest = match["rest"]
        running, queued = _RUNNING.search(rest), _QUEUED.search(rest)
        try:
            usage = max((float(text) for text in _USAGE.findall(rest)), default=0.0)
        except ValueError:
            usage = 0.0
        return Batch(
            parsed.where,
            match["kind"] == "Prefill",
            int(match["new"] or 0),
            int(match["cached"] or 0),
            int(running[1]) if running else 0,
            int(queued[1]) if queued else 0,
            usage,
        )

    def _access(self, line: Line) -> Access | None:
        text = plain(line.raw)
        match = _ACCESS.search(text)
        if match is None:
            return None
        return Access(Where(line.number), match["address"], match["request"], int(match["status"]))
