"""One raw line of a log, taken apart: who wrote it, when, at which level, and the message itself."""

from __future__ import annotations

import calendar
import json
import re
from typing import NamedTuple

from farspan.engines.logs.records import Where

MAX_TEXT = 16_000
MAX_RAW = 1_000
WRAPPED = b'{"log":'
_A_LEAP_YEAR = 1972
_HALF_A_YEAR = 180 * 86_400

# Every repeat below is possessive or bounded by a few characters: a match from the start of a line never goes back.
_ANSI = re.compile(rb"\x1b(?:\[[0-9;?]{0,40}+[A-Za-z]|\][^\x07\x1b]{0,500}+(?:\x07|\x1b\\)|[@-Z\\-_])")
# What container runtimes put before a line: `docker logs -t`, `kubectl logs --timestamps --prefix`, CRI files,
# `docker compose logs`, journald.
_RUNTIME = re.compile(
    r"(?:\[[^\]\s/]{1,200}+/[^\]\s]{1,300}+\]\s{1,9}+)?+"
    r"(?:[\w.-]{1,200}+\s{1,40}+\|\s)?+"
    r"(?:(?P<stamp>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,12}+)?(?:Z|[+-]\d\d:?+\d\d)?+)\s)?+"
    r"(?:std(?:out|err) [FP] )?+"
    r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S{1,300}+ [\w./@-]{1,200}+\[\d{1,12}+\]: )?+"
)
_PROCESS = re.compile(
    r"\((?P<name>[A-Za-z][\w.:-]{0,200}+)(?: rank=\d{1,9}+)? pid=\d{1,12}+(?:, ip=[\w.:]{1,80}+)?\)\s?"
)
_SECRET = re.compile(
    r"(\bhf_|\bsk-|[Bb]earer |api[_-]key['\"]?\s{0,4}[=:]\s{0,4}\[?['\"]?|HF_TOKEN=)[A-Za-z0-9_.-]{6,}+"
)
_RANK = re.compile(r"\[rank(?P<rank>\d{1,9}+)\]:?\s?")
# vLLM: `INFO 11-22 20:00:00 [core.py:114] text`; older `INFO 11-22 20:00:00 core.py:114] text`.
_VLLM = re.compile(
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)\s{1,9}+"
    r"(?:(?P<year>\d{4})-)?(?P<month>\d\d)-(?P<day>\d\d) (?P<clock>\d\d:\d\d(?::\d\d)?)(?:[.,]\d{1,9}+)? "
    r"\[?[\w./]{1,300}+(?::\d{1,9}+)?\] ?"
)
# SGLang: `[2026-11-22 20:21:52 DP0 TP0] text`, then `INFO:` for lines of its HTTP server.
_SGLANG = re.compile(
    r"\[(?P<stamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:[.,]\d{1,9}+)?(?P<ranks>(?: "
    r"[A-Z]{1,12}+\d{1,9}+){0,8}+)\] ?"
)
_LEVEL = re.compile(r"(?P<level>DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)(?::\s{1,20}+|\s{1,20}+)")
_STAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,12}+))?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
ANCHORED = (_RUNTIME, _PROCESS, _RANK, _VLLM, _SGLANG, _LEVEL, _STAMP)


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


def without_colours(raw: bytes) -> bytes:
    """A line without a terminal's control sequences."""
    return _ANSI.sub(b"", raw)


class LineParser:
    """Takes lines apart; keeps vLLM's timestamps, which have no year, in step with those that have one."""

    def __init__(self) -> None:
        self._year = 0
        self._last: float | None = None

    def parse(self, number: int, raw: bytes) -> ParsedLine:
        """Take one line without colours apart. Never fails: what is not recognised stays in the text."""
        text = raw[: 4 * MAX_TEXT].decode("utf-8", "replace")
        at: float | None = None
        process = level = style = ""
        begin = 0
        match = _RUNTIME.match(text)
        if match is not None and match.end():
            at = epoch(match["stamp"]) if match["stamp"] else None
            begin = match.end()
        while text.startswith(("(", "[rank"), begin):
            match = _PROCESS.match(text, begin) or _RANK.match(text, begin)
            if match is None:
                break
            # Of nested prefixes the last is the process that wrote the line.
            process = match[1] if match.re is _PROCESS else f"rank{match[1]}"
            begin = match.end()
        match = _VLLM.match(text, begin)
        if match is not None:
            style, level = "vllm", match["level"]
            if at is None:
                clock = match["clock"] if match["clock"].count(":") == 2 else match["clock"] + ":00"
                day = f"{match['month']}-{match['day']} {clock}"
                at = epoch(f"{match['year']}-{day}") if match["year"] else self.yearless(day)
            begin = match.end()
        else:
            match = _SGLANG.match(text, begin)
            if match is not None:
                style = "sglang"
                process = match["ranks"].strip() or process
                at = at if at is not None else epoch(match["stamp"])
                begin = match.end()
            match = _LEVEL.match(text, begin)
            if match is not None:
                level = {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(match["level"], match["level"])
                begin = match.end()
        return ParsedLine(Where(number, at, process), level, text[begin : begin + MAX_TEXT], style)

    def yearless(self, stamp: str) -> float | None:
        """Seconds since the epoch of `11-22 20:00:00`, in a leap year of our choosing; New Year adds one."""
        at = epoch(f"{_A_LEAP_YEAR + self._year}-{stamp}")
        if at is not None and self._last is not None and at < self._last - _HALF_A_YEAR:
            self._year += 1
            at = epoch(f"{_A_LEAP_YEAR + self._year}-{stamp}")
        self._last = at if at is not None else self._last
        return at


def raw_text(raw: bytes) -> str:
    """A line as evidence: decoded, cut, secrets gone."""
    text = raw[: 4 * MAX_RAW].decode("utf-8", "replace")[:MAX_RAW].rstrip()
    return _SECRET.sub(r"\1***", text)
