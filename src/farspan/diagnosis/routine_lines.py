"""The lines a server writes all day: throughput, batches, refused requests, and what clients sent.

They come by the million and are never told apart by their words alone, so each is read by hand here before anything
is looked for in the rest. The commonest, in the form vLLM and uvicorn write them, take one match from the start of
the line; all other forms (older versions, prefixes of container runtimes, colours) take the longer way.
"""

from __future__ import annotations

import re

from farspan.diagnosis.log_line import LineParser, epoch, plain
from farspan.diagnosis.records import Access, Batch, Event, Throughput, Where

_AVERAGE = b"Avg prompt throughput: "
_RECEIVED = b"Received request "
_NUMBER = rb"(\d{1,12}\.\d{1,6})"
_COMMON = re.compile(
    rb"(?:\((\w+) pid=\d+\) |\[[\d :-]{19}\] )?INFO(?:"
    rb" (\d\d-\d\d) (\d\d):(\d\d):(\d\d) \[\w+\.py:\d+\] (?:"
    rb"(?:Engine (\d{1,9}): )?Avg prompt throughput: " + _NUMBER + rb" tokens/s, Avg generation throughput: "
    + _NUMBER + rb" tokens/s, Running: (\d{1,9}) reqs, Waiting: (\d{1,9}) reqs, GPU KV cache usage: " + _NUMBER + rb"%"
    rb"|" + _RECEIVED + rb")"
    rb"|: +([\w.:%\[\]-]{2,60}):\d{1,5} - \"([^\"]{1,2000})\" ([45]\d\d) )"
)  # fmt: skip
_THROUGHPUT = re.compile(
    rb"Avg prompt throughput: ([\d.]+) tokens/s, Avg generation throughput: ([\d.]+) tokens/s, "
    rb"Running: (\d+) reqs, Waiting: (\d+) reqs(?:.{0,200}?KV cache usage: ([\d.]+)%)?"
)
_PREEMPTIONS = re.compile(rb"Preemptions: (\d{1,9})")
_ENGINE = re.compile(rb"Engine (\d+): $")
# SGLang's batch lines as every version planned for writes them; other forms take the longer way below.
_USED = rb"[a-z ]{0,40}usage: (\d{1,6}\.\d{1,6}), "
_POOL = rb"#[a-z ]{0,40}token: \d{1,12}, " + _USED
_SGLANG = re.compile(
    rb"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: [A-Z]+\d{1,6}){0,8})\] (?:"
    rb"Prefill batch(?: \[\d{1,12}\])?, #new-seq: \d{1,12}, #new-token: (\d{1,12}), #cached-token: (\d{1,12}), "
    + _USED + rb"(?:" + _USED + rb")?([^#]{0,200})#running-req: (\d{1,12}), #queue-req: (\d{1,12}),"
    rb"|Decode batch(?: \[\d{1,12}\])?, #running-req: (\d{1,12}), "
    + _POOL + rb"(?:" + _POOL + rb")?([^#]{0,200})#queue-req: (\d{1,12}),)"
)  # fmt: skip
_BATCH = re.compile(rb"\[(\d{4}-\d\d-\d\d) (\d\d):(\d\d):(\d\d)((?: [A-Z]+\d+)*)\] (Prefill|Decode) batch")
_FIELD = re.compile(rb"#(new-token|cached-token|running-req|queue-req): (\d{1,12})")
_USAGE = re.compile(rb"usage: (\d{1,6}\.\d{1,6})")
_ACCESS = re.compile(
    r"(?P<address>[\w.:%\[\]-]+?):\d+ - \"(?P<request>[^\"]{1,2000})\" (?P<status>[1-5]\d\d)\b"
)
# Half the time of calling a NamedTuple's own class; these come by the million.
_tuple = tuple.__new__
_DATES = 1_024


class RoutineLines:
    """Reads them. Bounded memory.

    Args:
        parser: The reader's own, which keeps timestamps without a year in step.
    """

    def __init__(self, parser: LineParser) -> None:
        self._parser = parser
        self._days: dict[bytes, float] = {}
        self._dates: dict[bytes, float] = {}
        self._head: tuple[bytes, float, str] = (b"", 0.0, "")

    def read(self, number: int, raw: bytes, events: list[Event]) -> bool:
        """Add what a line says to `events`, nothing for one that quotes a client.

        Returns:
            Whether it is one of these lines.
        """
        if raw.startswith(b"["):
            batch = _SGLANG.match(raw)
            if batch is not None:
                events.append(self._sglang_batch(number, batch))
                return True
        match = _COMMON.match(raw)
        if match is not None:
            common = self._common(number, match)
            if common is not None:
                events.append(common)
            return True
        if _AVERAGE in raw or b" batch" in raw:
            sample = self._sample(number, raw)
            if sample is not None:
                events.append(sample)
                return True
        # It quotes what a client sent: a prompt about a traceback is no traceback.
        return _RECEIVED in raw or b"Receive: obj=" in raw or b"Finish: obj=" in raw

    def _common(self, number: int, match: re.Match[bytes]) -> Throughput | Access | None:
        (
            process,
            day,
            hour,
            minute,
            second,
            engine,
            prompt,
            generation,
            running,
            waiting,
            usage,
            address,
            request,
            status,
        ) = match.groups()
        if prompt is not None:
            start = self._day(day)
            at = None if start is None else start + int(hour) * 3600 + int(minute) * 60 + int(second)
            return Throughput(
                Where(number, at, process.decode() if process else ""),
                float(prompt),
                float(generation),
                int(running),
                int(waiting),
                float(usage) / 100,
                engine.decode() if engine else "",
            )
        if address is None:
            return None
        client = address.decode("ascii", "replace")
        return Access(Where(number), client, request.decode("utf-8", "replace"), int(status))

    def access(self, number: int, raw: bytes) -> Access | None:
        """An answered request in a line of any form; None when there is none in it."""
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

    def _day(self, day: bytes) -> float | None:
        """When a day such as `11-22` began; None when there is no such day."""
        start = self._days.get(day)
        if start is None:
            start = self._parser.yearless(f"{day.decode()} 00:00:00")
            if start is not None:
                self._days[day] = start  # at most 366 of them
        return start

    def _at(self, date: bytes, hour: bytes, minute: bytes, second: bytes) -> float:
        """Seconds since the epoch of a time on a date such as `2026-11-22`."""
        start = self._dates.get(date)
        if start is None:
            start = epoch(f"{date.decode()} 00:00:00") or 0.0
            if len(self._dates) < _DATES:
                self._dates[date] = start
        return start + int(hour) * 3600 + int(minute) * 60 + int(second)

    def _sample(self, number: int, raw: bytes) -> Throughput | Batch | None:
        at = raw.find(_AVERAGE)
        if at >= 0:
            return self._throughput(number, raw, at)
        if b"Prefill batch" in raw or b"Decode batch" in raw:
            return self._batch(number, raw)
        return None

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
        engine = _ENGINE.search(raw, max(at - 24, 0), at)
        return Throughput(
            self._parser.parse(number, raw[:at]).where,
            *rates,
            int(running[:9]),
            int(waiting[:9]),
            used,
            engine[1].decode()[:9] if engine is not None else "",
            preemptions,
        )

    def _sglang_batch(self, number: int, match: re.Match[bytes]) -> Batch:
        head, new, cached, used, more, rest, running, queued, *decode = match.groups()
        # Many lines of a busy server share a second and a rank.
        known, at, ranks = self._head
        if head != known:
            at, ranks = self._at(head[:10], head[11:13], head[14:16], head[17:19]), head[20:].decode()
            self._head = (head, at, ranks)
        where = _tuple(Where, (number, at, ranks))
        if new is not None:
            usage = _highest(used, more, rest)
            return _tuple(Batch, (where, True, int(new), int(cached), int(running), int(queued), usage))
        running, used, more, rest, queued = decode
        return _tuple(Batch, (where, False, 0, 0, int(running), int(queued), _highest(used, more, rest)))

    def _batch(self, number: int, raw: bytes) -> Batch | None:
        match = _BATCH.match(raw)
        if match is not None:
            day, hour, minute, second, ranks, kind = match.groups()
            where = Where(number, self._at(day, hour, minute, second), ranks.decode().strip())
        else:
            parsed = self._parser.parse(number, raw)
            if not parsed.text.startswith(("Prefill batch", "Decode batch")):
                return None
            where, kind = parsed.where, parsed.text[:6].strip().encode()
        fields = {name: int(value) for name, value in _FIELD.findall(raw)}
        return Batch(
            where,
            kind != b"Decode",
            fields.get(b"new-token", 0),
            fields.get(b"cached-token", 0),
            fields.get(b"running-req", 0),
            fields.get(b"queue-req", 0),
            _highest_usage(raw),
        )


def _highest(first: bytes, second: bytes | None, rest: bytes) -> float:
    usage = float(first)
    if second is not None:
        usage = max(usage, float(second))
    return max(usage, _highest_usage(rest)) if b"usage" in rest else usage


def _highest_usage(text: bytes) -> float:
    return max(map(float, _USAGE.findall(text)), default=0.0)
