"""The time series of a run: what the engine and the GPUs said of themselves, second by second.

A SQLite file rather than Parquet: Parquet's footer is written when the file is closed, so a killed run
would lose its whole series, and its library weighs 100 MB. SQLite is in Python, every second is a transaction
of its own, and anyone can query it: `sqlite3 RUN/metrics.sqlite 'select * from reading'`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from farspan.errors import InputError

SERIES_FILE = "metrics.sqlite"
# The rollback journal and not the write-ahead log: one file that can be copied, and network folders work.
_SCHEMA = """
PRAGMA journal_mode = DELETE;
PRAGMA synchronous = NORMAL;
BEGIN;
CREATE TABLE IF NOT EXISTS reading (
  source TEXT NOT NULL,    -- engine, gpu0, gpu1, ... or client
  measure TEXT NOT NULL,
  time REAL NOT NULL,      -- seconds since the epoch
  start INTEGER NOT NULL,  -- which start of the run, from 0: a resumed run has several
  value REAL NOT NULL,
  PRIMARY KEY (source, measure, time)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS missed (
  time REAL NOT NULL,
  start INTEGER NOT NULL,
  source TEXT NOT NULL,
  reason TEXT NOT NULL
);
COMMIT;
"""


class Reading(NamedTuple):
    """One value at one time, `time` in seconds since the epoch."""

    time: float
    value: float


class SeriesStore:
    """Adds readings to a run's series. For one thread; use it as a context manager or close it.

    Args:
        folder: The run folder.
        start: Which start of the run this is, from 0.

    Raises:
        sqlite3.Error: The file cannot be written, or is something else.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self._start = start
        self._database = sqlite3.connect(folder / SERIES_FILE, timeout=5.0)
        try:
            self._database.executescript(_SCHEMA)
        except sqlite3.Error:
            self._database.close()
            raise

    def add(
        self, time: float, readings: Mapping[str, Mapping[str, float]], missed: Mapping[str, str]
    ) -> None:
        """Add what was read at one time, and why some was not, in one transaction.

        Args:
            time: Seconds since the epoch.
            readings: Source to measure to value.
            missed: Source to why it could not be read.

        Raises:
            sqlite3.Error: The disk is full, or the folder has gone.
        """
        rows = [
            (source, measure, time, self._start, value)
            for source, values in readings.items()
            for measure, value in values.items()
        ]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO reading VALUES (?, ?, ?, ?, ?)", rows)
            self._database.executemany(
                "INSERT INTO missed VALUES (?, ?, ?, ?)",
                [(time, self._start, source, reason) for source, reason in missed.items()],
            )

    def close(self) -> None:
        """Close the file; every reading is in it already."""
        self._database.close()


def read_series(folder: Path) -> dict[str, dict[str, tuple[Reading, ...]]]:
    """Read a run's series: source to measure to readings in order of time; empty when the run has none.

    Raises:
        InputError: The file is damaged.
    """
    series: dict[str, dict[str, list[Reading]]] = {}
    for source, measure, time, value in _query(
        folder, "reading", "SELECT source, measure, time, value FROM reading ORDER BY source, measure, time"
    ):
        series.setdefault(source, {}).setdefault(measure, []).append(Reading(time, value))
    return {
        source: {measure: tuple(readings) for measure, readings in measures.items()}
        for source, measures in series.items()
    }


def read_missed(folder: Path) -> dict[str, tuple[str, int]]:
    """Return for each source that could not be read at times the last reason and how often.

    Raises:
        InputError: The file is damaged.
    """
    rows = _query(folder, "missed", "SELECT source, reason, count(*), max(time) FROM missed GROUP BY source")
    return {source: (reason, count) for source, reason, count, _ in rows}


def _query(folder: Path, table: str, statement: str) -> list[Any]:
    path = folder / SERIES_FILE
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(path, timeout=5.0)) as database:
            # A run that was killed as it began leaves a file without tables.
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                return []
            return database.execute(statement).fetchall()
    except sqlite3.Error as error:
        raise InputError(
            f"{path} cannot be read ({error})", "remove it: the results in requests.jsonl do not need it"
        ) from error
