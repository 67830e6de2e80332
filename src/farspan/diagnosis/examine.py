"""From a log to a report, in one call."""

from __future__ import annotations

from collections.abc import Iterable

from farspan.diagnosis.diagnose import Doctor, Report
from farspan.diagnosis.log_reader import LogReader
from farspan.engines.logs.server_state import Hints


def examine(pieces: Iterable[bytes], hints: Hints | None = None) -> Report:
    """Read a log, however it is cut, and say what happened. Memory is bounded whatever the log's length."""
    reader, doctor = LogReader(), Doctor(hints)
    for piece in pieces:
        doctor.feed(reader.feed(piece))
    doctor.feed(reader.close())
    return doctor.report(lines=reader.lines_read)
