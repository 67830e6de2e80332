"""From a log to a report, in one call."""

from __future__ import annotations

from collections.abc import Iterable

from farspan.diagnosis.diagnose import Doctor, Report
from farspan.diagnosis.log_reader import LogReader
from farspan.engines.logs.server_state import Hints, ServerState


def examine(pieces: Iterable[bytes], hints: Hints | None = None) -> Report:
    """Read a log, however it is cut, and say what happened. Memory is bounded whatever the log's length."""
    reader, doctor = _read(pieces, hints)
    return doctor.report(lines=reader.lines_read)


def read_server_state(pieces: Iterable[bytes], hints: Hints | None = None) -> ServerState:
    """Read a log, however it is cut, and return what it tells of its server; of several starts, the last."""
    return _read(pieces, hints)[1].server_state


def _read(pieces: Iterable[bytes], hints: Hints | None) -> tuple[LogReader, Doctor]:
    reader, doctor = LogReader(), Doctor(hints)
    for piece in pieces:
        doctor.feed(reader.feed(piece))
    doctor.feed(reader.close())
    return reader, doctor
