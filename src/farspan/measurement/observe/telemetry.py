"""Watches a server and this machine's GPUs while a run goes on, from a thread of its own.

A thread, so that a slow answer or a slow disk never holds up the load's event loop; and nothing that goes wrong
here ends a run: it is written down as missed and the run goes on.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from bisect import bisect_left, bisect_right
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from farspan.engines.metric_source import Measure
from farspan.measurement.observe.scrape import TIMEOUT_S, Sample, ScrapeError
from farspan.measurement.runs.series import SeriesStore

ENGINE = "engine"
CLIENT = "client"
# A server without metrics is asked less and less often, up to this.
_LONGEST_PAUSE_S = 30.0
_FAILURES_BEFORE_PAUSE = 3
# What is kept in memory for labels and the live view; at one a second, a day. The file has everything.
_MOST_SAMPLES = 86_400


class Scrapes(Protocol):
    """What telemetry needs of a server; `farspan.measurement.observe.scrape.Scraper` is one."""

    def read(self) -> dict[Measure, float]:
        """Ask once, or raise `ScrapeError`."""


class ReadsGpus(Protocol):
    """What telemetry needs of GPUs; `farspan.measurement.observe.gpu_sampler.GpuReader` is one."""

    def read(self) -> dict[str, dict[str, float]]:
        """Read every GPU."""

    def close(self) -> None:
        """Let go of them."""


class Telemetry:
    """Reads engine and GPUs at an interval, keeps the readings, and writes them to the run folder.

    Use it as a context manager. `latest` and `between` may be called from any thread.

    Args:
        folder: The run folder.
        start: Which start of the run this is, from 0.
        scraper: The server's metrics; None reads none.
        gpus: This machine's GPUs; None reads none. Closed at the end.
        interval_s: Seconds from one reading to the next.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: int,
        scraper: Scrapes | None,
        gpus: ReadsGpus | None = None,
        interval_s: float = 1.0,
    ) -> None:
        self.failure = ""  # why nothing is written any more
        self.reason = ""  # why the engine's metrics could not be read the last time
        self._folder = folder
        self._start = start
        self._scraper = scraper
        self._gpus = gpus
        self._interval = interval_s
        self._samples: list[Sample] = []
        self._times: list[float] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._ticks = 0
        self._ticking = False
        self._ticked = threading.Condition()
        self._thread = threading.Thread(target=self._watch, name="farspan-telemetry", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._wake.set()
        # A server that hangs must not hold up the end of a run; the thread is a daemon.
        self._thread.join(TIMEOUT_S + 1)

    def latest(self) -> Sample | None:
        """Return the newest sample of the engine, or None when there is none yet."""
        with self._lock:
            return self._samples[-1] if self._samples else None

    def between(self, since: float, until: float) -> tuple[Sample, ...]:
        """Return the engine's samples of a stretch of time, both ends in seconds since the epoch."""
        with self._lock:
            first = bisect_left(self._times, since)
            return tuple(self._samples[first : bisect_right(self._times, until)])

    def around(self, since: float, until: float) -> tuple[Sample, ...]:
        """Return the engine's last sample before a stretch of time, and all after it."""
        with self._lock:
            before = bisect_right(self._times, since)
            after = max(before, bisect_left(self._times, until))
            return (*self._samples[max(0, before - 1) : before], *self._samples[after:])

    def read_now(self, timeout_s: float = TIMEOUT_S) -> None:
        """Read everything once more at once, and wait until that is done or the time is up. Blocks."""
        with self._ticked:
            wanted = self._ticks + 1 + self._ticking
            self._wake.set()
            self._ticked.wait_for(lambda: self._ticks >= wanted or self._stop.is_set(), timeout_s)

    def _watch(self) -> None:
        try:
            store = SeriesStore(self._folder, self._start)
        except (sqlite3.Error, OSError) as error:
            self.failure = f"the time series cannot be written: {error}"
            store = None
        try:
            failures = 0
            while True:
                began = time.monotonic()
                reached = self._tick(store if not self.failure else None)
                failures = 0 if reached else failures + 1
                pause = self._interval
                if failures >= _FAILURES_BEFORE_PAUSE and self._gpus is None:
                    pause = max(
                        pause, min(_LONGEST_PAUSE_S, pause * 2 ** (failures - _FAILURES_BEFORE_PAUSE))
                    )
                self._wake.wait(max(0.0, began + pause - time.monotonic()))
                self._wake.clear()
                if self._stop.is_set():
                    # Once more, so that the last request's counters are in.
                    self._tick(store if not self.failure else None)
                    return
        finally:
            if store is not None:
                store.close()
            if self._gpus is not None:
                self._gpus.close()

    def _tick(self, store: SeriesStore | None) -> bool:
        """Read everything once; return whether the engine answered."""
        with self._ticked:
            self._ticking = True
        try:
            return self._read(store)
        finally:
            with self._ticked:
                self._ticking = False
                self._ticks += 1
                self._ticked.notify_all()

    def _read(self, store: SeriesStore | None) -> bool:
        readings: dict[str, dict[str, float]] = {}
        missed: dict[str, str] = {}
        began = time.perf_counter()
        if self._scraper is not None:
            try:
                values = self._scraper.read()
            except ScrapeError as error:
                self.reason = missed[ENGINE] = str(error)
            else:
                took = time.perf_counter() - began
                self._keep(Sample(time.time(), values, took))
                readings[ENGINE] = {measure.value: value for measure, value in values.items()}
                readings[CLIENT] = {"scrape_s": took}
        if self._gpus is not None:
            try:
                readings |= self._gpus.read()
            except Exception as error:  # noqa: BLE001 - a driver's fault must not end a measurement
                missed["gpu"] = f"{type(error).__name__}: {error}"
        if store is not None:
            try:
                store.add(time.time(), readings, missed)
            except sqlite3.Error as error:
                self.failure = f"the time series cannot be written: {error}"
        return ENGINE in readings

    def _keep(self, sample: Sample) -> None:
        with self._lock:
            self._samples.append(sample)
            self._times.append(sample.time)
            if len(self._samples) > _MOST_SAMPLES:
                del self._samples[: _MOST_SAMPLES // 10], self._times[: _MOST_SAMPLES // 10]
