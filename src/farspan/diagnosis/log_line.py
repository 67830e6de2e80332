"""One raw line of a log, taken apart: who wrote it, when, at which level, and the message itself."""

from __future__ import annotations

import calendar
import json
import re
from typing import NamedTuple

from farspan.diagnosis.records import Where

MAX_TEXT = 16_000
MAX_RAW = 1_000
WRAPPED = b'{"log":'
_A_LEAP_YEAR = 1972
_HALF_A_YEAR = 180 * 86_400

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[@-Z\\-_])")
# What container runtimes put before a line: `docker logs -t`, `kubectl logs --timestamps --prefix`, CRI files,
# `docker compose logs`, journald.
_RUNTIME = re.compile(
    r"(?:\[(?:pod/)?[^\]\s]+/[^\]\s]+\]\s+)?"
    r"(?:[\w.-]+\s+\|\s)?"
    r"(?:(?P<stamp>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)\s)?"
    r"(?:std(?:out|err) [FP] )?"
    r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ [\w./@-]+\[\d+\]: )?"
)
_PROCESS = re.compile(r"\((?P<name>[A-Za-z][\w.:-]*)(?: rank=\d+)? pid=\d+(?:, ip=[\w.:]+)?\)\s?")
_SECRET = re.compile(
    r"(\bhf_|\bsk-|[Bb]earer |api[_-]key['\"]?\s*[=:]\s*\[?['\"]?|HF_TOKEN=)[A-Za-z0-9_.-]{6,}"
)
_RANK = re.compile(r"\[rank(?P<rank>\d+)\]:?\s?")
# vLLM: `INFO 11-22 20:00:00 [core.py:114] text`; older `INFO 11-22 20:00:00 core.py:114] text`.
_VLLM = re.compile(
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+"
    r"(?:(?P<year>\d{4})-)?(?P<month>\d\d)-(?P<day>\d\d) (?P<clock>\d\d:\d\d(?::\d\d)?)(?:[.,]\d+)? "
    r"\[?(?:[\w./]+)(?::\d+)?\] ?"
)
# SGLang: `[2026-11-22 20:21:52 DP0 TP0] text`, then `INFO:` for lines of its HTTP server.
_SGLANG = re.compile(r"\[(?P<stamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:[.,]\d+)?(?P<ranks>(?: [A-Z]+\d+)*)\] ?")
_LEVEL = re.compile(r"(?P<level>DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)(?::\s+|\s+)")
_STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:?\d\d)?")


class ParsedLine(NamedTuple):
    """A line taken apart.

    Args:
        where: Number, time and process.
        level: Its level, empty when it has none.
        text: The message, its indent kept.
        style: "vllm" or "sglang" when the prefix is that engine's, else empty.
    """

    where: Where
    level: str
    text: str
    style: str


def epoch(stamp: str) -> float | None:
    """Seconds since the epoch of `2026-11-22T20:00:00.5Z` and its relatives; None when it is no date."""
    match = _STAMP.match(stamp)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        return None
    seconds = float(calendar.timegm((year, month, day, hour, minute, second)))
    if match.group(7):
        seconds += float(f"0.{match.group(7)}")
    zone = match.group(8)
    if zone and zone != "Z":
        sign = 1 if zone[0] == "-" else -1
        digits = zone[1:].replace(":", "")
        seconds += sign * (int(digits[:2]) * 3600 + int(digits[2:]) * 60)
    return seconds


def unwrap(raw: bytes) -> bytes:
    """A line of docker's json-file format as `docker logs --timestamps` would print it."""
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    log, stamp = entry.get("log"), entry.get("time")
    if not isinstance(log, str):
        return raw
    line = log.rstrip("\r\n")
    whole = f"{stamp} {line}" if isinstance(stamp, str) else line
    return whole.replace("\n", " ").encode("utf-8", "replace")


def plain(raw: bytes) -> str:
    """The text of a line without colours."""
    text = raw[: 4 * MAX_TEXT].decode("utf-8", "replace")
    return _ANSI.sub("", text) if "\x1b" in text else text


class LineParser:
    """Takes lines apart; keeps vLLM's timestamps, which have no year, in step with those that have one."""

    def __init__(self) -> None:
        self._year = 0
        self._last: float | None = None

    def parse(self, number: int, raw: bytes) -> ParsedLine:
        """Take one line apart. Never fails: what is not recognised stays in the text."""
        text = plain(raw)
        at: float | None = None
        process = level = style = ""
        match = _RUNTIME.match(text)
        if match is not None and match.end():
            at = epoch(match["stamp"]) if match["stamp"] else None
            text = text[match.end() :]
        while True:
            match = _PROCESS.match(text) or _RANK.match(text)
            if match is None:
                break
            # Of nested prefixes the last is the process that wrote the line.
            process = match.groupdict().get("name") or f"rank{match.group(1)}"
            text = text[match.end() :]
        match = _VLLM.match(text)
        if match is not None:
            style, level = "vllm", match["level"]
            if at is None:
                clock = match["clock"] if match["clock"].count(":") == 2 else match["clock"] + ":00"
                day = f"{match['month']}-{match['day']} {clock}"
                at = epoch(f"{match['year']}-{day}") if match["year"] else self.yearless(day)
            text = text[match.end() :]
        else:
            match = _SGLANG.match(text)
            if match is not None:
                style = "sglang"
                process = match["ranks"].strip() or process
                at = at if at is not None else epoch(match["stamp"])
                text = text[match.end() :]
            match = _LEVEL.match(text)
            if match is not None:
                level = {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(match["level"], match["level"])
                text = text[match.end() :]
        return ParsedLine(Where(number, at, process), level, text[:MAX_TEXT], style)

    def yearless(self, stamp: str) -> float | None:
        """Seconds since the epoch of `11-22 20:00:00`, in a leap year of our choosing; New Year adds one."""
        at = epoch(f"{_A_LEAP_YEAR + self._year}-{stamp}")
        if at is not None and self._last is not None and at < self._last - _HALF_A_YEAR:
            self._year += 1
            at = epoch(f"{_A_LEAP_YEAR + self._year}-{stamp}")
        self._last = at if at is not None else self._last
        return at


def raw_text(raw: bytes) -> str:
    """A line as evidence: decoded, cut, colours and secrets gone."""
    text = raw[: 4 * MAX_RAW].decode("utf-8", "replace")
    text = (_ANSI.sub("", text) if "\x1b" in text else text)[:MAX_RAW].rstrip()
    return _SECRET.sub(r"\1***", text)
