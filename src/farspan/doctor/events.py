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
from functools import lru_cache

from farspan.doctor.grammar import ENDINGS, MESSAGES, RULES
from farspan.doctor.lines import WRAPPED, LineParser, epoch, plain, raw_text, unwrap
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
from farspan.doctor.scan import Scanner

__all__ = ["LogReader"]

MAX_LINE = 1 << 20
_WINDOW = 1 << 18
_SHAPES = 8_192
_SHOWN = 64
_SHAPE = 400
_PREFIXES = 1_024
_DIGITS = b"0123456789"

_AVERAGE = b"Avg prompt throughput: "
_THROUGHPUT = re.compile(
    rb"Avg prompt throughput: ([\d.]+) tokens/s, Avg generation throughput: ([\d.]+) tokens/s, "
    rb"Running: (\d+) reqs, Waiting: (\d+) reqs(?:.{0,200}?KV cache usage: ([\d.]+)%)?"
)
_PREEMPTIONS = re.compile(rb"Preemptions: (\d{1,9})")
_ENGINE = re.compile(rb"Engine (\d+): $")
# `(APIServer pid=811) INFO 11-22 20:03:32 [loggers.py:273] `, with the stamp where INFO says.
_OWN_PREFIX = re.compile(rb"(?:\((\w+) pid=\d+\) )?INFO \d\d-\d\d \d\d:\d\d:\d\d ")
_BATCH = re.compile(rb"\[(\d{4}-\d\d-\d\d) (\d\d):(\d\d):(\d\d)((?: [A-Z]+\d+)*)\] (Prefill|Decode) batch")
_FIELD = re.compile(rb"#(new-token|cached-token|running-req|queue-req): (\d{1,12})")
_USAGE = re.compile(rb"usage: (\d{1,6}\.\d{1,6})")
_ACCESS = re.compile(
    r"(?P<address>[\w.:%\[\]-]+?):\d+ - \"(?P<request>[^\"]{1,2000})\" (?P<status>[1-5]\d\d)\b"
)
_REFUSED = (b"400 Bad", b"401 Una", b"403 For", b"404 Not", b"405 Met", b"413 ", b"422 Unp", b"429 Too",
            b"500 Int", b"502 Bad", b"503 Ser", b"504 Gat")  # fmt: skip
_PLAIN_ENDS = (b'" 200 OK', b'" 200 OK\r', b"200 OK\x1b[0m", b"200 OK\x1b[0m\r")
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
        needles: Bytes (four or more) that mark a line as worth a `Message`, besides those the grammar knows and
            those of the rules.
    """

    def __init__(self, needles: Iterable[bytes] = ()) -> None:
        from farspan.doctor.noise import HARMLESS
        from farspan.doctor.rules import NEEDLES

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
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._dropping = False
        self._line = 1
        self._boring: set[bytes] = set()
        self._days: dict[bytes, float] = {}
        self._prefixes: dict[bytes, tuple[float, str, str]] = {}
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
        lines = block.split(b"\n")
        if WRAPPED in block:
            lines = [unwrap(raw) if raw.startswith(WRAPPED) else raw for raw in lines]
        first, boring = self._line, self._boring
        self._line += len(lines) - 1
        rest = [(number, raw) for number, raw in enumerate(lines, first) if not raw.endswith(_PLAIN_ENDS)]
        answered = len(lines) - len(rest)
        if answered:
            events.append(Traffic(Where(first), answered))
        fresh = []
        before = len(events)
        for number, raw in rest:
            if _AVERAGE in raw or b" batch" in raw:
                sample = self._sample(number, raw)
                if sample is not None:
                    events.append(sample)
                    continue
            if b"Received request " in raw or b"Receive: obj=" in raw or b"Finish: obj=" in raw:
                # It quotes what a client sent: a prompt about a traceback is no traceback.
                continue
            # A progress bar writes over itself: each state is a line of its own.
            for part in raw.split(b"\r") if b"\r" in raw else (raw,):
                shape = part[:_SHAPE].translate(None, _DIGITS)
                if shape and shape not in boring:
                    fresh.append((number, part, shape))
        if not fresh:
            return
        out_of_order = len(events) > before
        candidates = self._scanner.candidates([raw for _, raw, _ in fresh])
        for at, (number, raw, shape) in enumerate(fresh):
            if candidates.get(at):
                self._read_line(number, raw, candidates[at], events)
            elif len(boring) < _SHAPES and len(raw) <= _SHAPE:
                boring.add(shape)
        if out_of_order:
            events[before:] = sorted(events[before:], key=_line_of)

    def _read_line(self, number: int, raw: bytes, marks: tuple[bytes, ...], events: list[Event]) -> None:
        if b' - "' in raw and len(raw) < 4_000:
            access = self._access(number, raw)
            if access is not None:
                events.append(access)
                return
        shape = raw[:_SHAPE].translate(None, _DIGITS)
        seen = self._shapes.get(shape, 0)
        if seen >= _SHOWN:
            message, count = self._withheld[shape]
            self._withheld[shape] = (message, count + 1)
            return
        self._read_rest(number, raw, marks, shape, events)

    def _sample(self, number: int, raw: bytes) -> Throughput | Batch | None:
        """One of the periodic lines, which come too often to be looked for with the others."""
        at = raw.find(_AVERAGE)
        if at >= 0:
            return self._throughput(number, raw, at)
        if b"Prefill batch" in raw or b"Decode batch" in raw:
            return self._batch(number, raw)
        return None

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
                done = phase is Phase.DIED
                events.append(Progress(parsed.where, phase, done=done, text=parsed.text.strip()[:300]))
                break
        message = Message(parsed.where, parsed.level, parsed.text.rstrip(), raw_text(raw), marks)
        events.append(message)
        seen = self._shapes.get(shape, 0)
        if seen or len(self._shapes) < _SHAPES:
            self._shapes[shape] = seen + 1
            if seen + 1 == _SHOWN:
                self._withheld[shape] = (message, 0)

    def _throughput(self, number: int, raw: bytes, at: int) -> Throughput | None:
        match = _THROUGHPUT.match(raw, at)
        if match is None:
            return None
        prompt, generation, running, waiting, usage = match.groups()
        try:
            rates = float(prompt), float(generation)
            used = float(usage) / 100 if usage else 0.0
        except ValueError:
            return None
        preemptions = 0
        if b"Preemptions: " in raw:
            counted = _PREEMPTIONS.search(raw, match.end(4))
            preemptions = int(counted[1]) if counted is not None else 0
        at_s, process, engine = self._prefix(number, raw, at)
        return Throughput(
            Where(number, at_s, process),
            *rates,
            int(running[:9]),
            int(waiting[:9]),
            used,
            engine,
            preemptions,
        )

    def _prefix(self, number: int, raw: bytes, end: int) -> tuple[float | None, str, str]:
        """Time, process and engine number of a throughput line.

        The same prefix comes all day, but for the clock: the rest is worked out once.
        """
        bracket = raw.find(b" [", 0, end)
        key = raw[: bracket - 8] + raw[bracket:end] if bracket > 8 else b""
        known = self._prefixes.get(key)
        if known is not None:
            day, process, engine = known
            try:
                hours, minutes = int(raw[bracket - 8 : bracket - 6]), int(raw[bracket - 5 : bracket - 3])
                return day + hours * 3600 + minutes * 60 + int(raw[bracket - 2 : bracket]), process, engine
            except ValueError:
                pass  # not a clock: the line is read as any other
        number_of = _ENGINE.search(raw, max(end - 24, 0), end)
        engine = number_of[1].decode()[:9] if number_of is not None else ""
        where = self._parser.parse(number, raw[:end]).where
        own = _OWN_PREFIX.match(raw)
        if own is not None and own.end() == bracket + 1 and where.at is not None:
            if len(self._prefixes) >= _PREFIXES:
                self._prefixes.clear()
            self._prefixes[key] = (where.at - where.at % 86_400, where.process, engine)
        return where.at, where.process, engine

    def _batch(self, number: int, raw: bytes) -> Batch | None:
        match = _BATCH.match(raw)
        if match is not None:
            day, hour, minute, second, ranks, kind = match.groups()
            start = self._days.get(day)
            if start is None:
                start = epoch(f"{day.decode()} 00:00:00") or 0.0
                if len(self._days) < _PREFIXES:
                    self._days[day] = start
            at = start + int(hour) * 3600 + int(minute) * 60 + int(second)
            where = Where(number, at, ranks.decode().strip())
        else:
            parsed = self._parser.parse(number, raw)
            if not parsed.text.startswith(("Prefill batch", "Decode batch")):
                return None
            where, kind = parsed.where, parsed.text[:6].strip().encode()
        fields = {name: int(value) for name, value in _FIELD.findall(raw)}
        used = [float(text) for text in _USAGE.findall(raw)]
        return Batch(
            where,
            kind != b"Decode",
            fields.get(b"new-token", 0),
            fields.get(b"cached-token", 0),
            fields.get(b"running-req", 0),
            fields.get(b"queue-req", 0),
            max(used, default=0.0),
        )

    def _access(self, number: int, raw: bytes) -> Access | None:
        if b"\x1b" in raw:
            match = _ACCESS.search(plain(raw))
            if match is None:
                return None
            return Access(Where(number), match["address"], match["request"], int(match["status"]))
        # The same by hand: such lines come by the million when somebody scans for open doors.
        dash = raw.find(b' - "')
        quote = raw.find(b'" ', dash + 4)
        status = raw[quote + 2 : quote + 5]
        client = raw[raw.rfind(b" ", 0, dash) + 1 : dash]
        address, colon, port = client.rpartition(b":")
        if quote < 0 or len(status) != 3 or not status.isdigit() or not colon or not port.isdigit():
            return None
        return Access(
            Where(number),
            address.decode("ascii", "replace"),
            raw[dash + 4 : quote].decode("utf-8", "replace"),
            int(status),
        )
