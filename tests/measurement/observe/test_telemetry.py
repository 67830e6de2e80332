"""Scraping while something goes on: what is kept, what a fault does, and that a killed process loses nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from farspan.engines.metric_source import Measure
from farspan.errors import InputError
from farspan.measurement.http.target import ServerInfo
from farspan.measurement.observe.engine_observer import EngineObserver
from farspan.measurement.observe.observer import ObservedRun
from farspan.measurement.observe.scrape import Sample, ScrapeError, Scraper
from farspan.measurement.observe.telemetry import Telemetry
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.series import SERIES_FILE, SeriesStore, read_missed, read_series
from paced import Paced, serve_paced


def exposition(running: int, waiting: int = 0, usage: float = 0.5, preemptions: int = 0) -> str:
    return (
        f'vllm:num_requests_running{{engine="0"}} {running}.0\n'
        f'vllm:num_requests_waiting{{engine="0"}} {waiting}.0\n'
        f'vllm:kv_cache_usage_perc{{engine="0"}} {usage}\n'
        f'vllm:num_preemptions_total{{engine="0"}} {preemptions}.0\n'
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1.0\n'
    )


class Script:
    """A scraper that returns or raises what it is told, the last thing for ever."""

    def __init__(self, *answers: dict[Measure, float] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def read(self) -> dict[Measure, float]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def wait_until(condition: object, limit_s: float = 30.0) -> None:
    assert callable(condition)
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.005)


def test_one_more_reading_is_waited_for(tmp_path: Path) -> None:
    scraper = Script({Measure.RUNNING: 1.0})
    with Telemetry(tmp_path, start=0, scraper=scraper, interval_s=60.0) as telemetry:
        telemetry.read_now()
        for _ in range(3):
            began = time.time()
            telemetry.read_now()
            latest = telemetry.latest()
            assert latest is not None
            assert latest.time >= began
    began_at = time.monotonic()
    telemetry.read_now(30.0)
    assert time.monotonic() - began_at < 5, "nobody reads any more"


def test_every_reading_is_kept_and_found_again(tmp_path: Path) -> None:
    scraper = Script({Measure.RUNNING: 1.0}, {Measure.RUNNING: 2.0})
    with Telemetry(tmp_path, start=0, scraper=scraper, interval_s=0.01) as telemetry:
        wait_until(lambda: scraper.asked >= 4)
    series = read_series(tmp_path)["engine"]["running"]
    assert [reading.value for reading in series][:2] == [1.0, 2.0]
    assert len(series) == scraper.asked
    latest = telemetry.latest()
    assert latest is not None
    assert len(telemetry.between(0, latest.time)) == scraper.asked
    assert len(telemetry.between(latest.time, latest.time)) == 1


def test_a_server_without_metrics_ends_nothing_and_is_written_down(tmp_path: Path) -> None:
    scraper = Script(ScrapeError("no metrics here"))
    with Telemetry(tmp_path, start=0, scraper=scraper, interval_s=0.005) as telemetry:
        wait_until(lambda: scraper.asked >= 3)
    assert telemetry.latest() is None
    assert telemetry.reason == "no metrics here"
    assert read_missed(tmp_path)["engine"] == ("no metrics here", scraper.asked)


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / SERIES_FILE).write_text("this is no database, and longer than its header would be" * 10)
    scraper = Script({Measure.RUNNING: 1.0})
    with Telemetry(tmp_path, start=0, scraper=scraper, interval_s=0.01) as telemetry:
        wait_until(lambda: telemetry.latest() is not None)
    assert "time series" in telemetry.failure
    with pytest.raises(InputError, match="cannot be read"):
        read_series(tmp_path)


def test_a_broken_driver_ends_nothing(tmp_path: Path) -> None:
    class Gpus:
        closed = False

        def read(self) -> dict[str, dict[str, float]]:
            raise RuntimeError("the driver is gone")

        def close(self) -> None:
            self.closed = True

    gpus, scraper = Gpus(), Script({Measure.RUNNING: 1.0})
    with Telemetry(tmp_path, start=0, scraper=scraper, gpus=gpus, interval_s=0.01):
        wait_until(lambda: scraper.asked >= 2)
    assert gpus.closed
    assert read_missed(tmp_path)["gpu"][0] == "RuntimeError: the driver is gone"
    assert len(read_series(tmp_path)["engine"]["running"]) == scraper.asked


def test_a_resumed_run_goes_on_in_the_same_series(tmp_path: Path) -> None:
    for start in (0, 1):
        store = SeriesStore(tmp_path, start)
        store.add(100.0 + start, {"engine": {"running": float(start)}}, {})
        store.close()
    assert [reading.value for reading in read_series(tmp_path)["engine"]["running"]] == [0.0, 1.0]
    with sqlite3.connect(tmp_path / SERIES_FILE) as database:
        assert database.execute("SELECT time, start FROM reading ORDER BY time").fetchall() == [
            (100.0, 0),
            (101.0, 1),
        ]


WRITER = """
import sys
from pathlib import Path
from farspan.measurement.runs.series import SeriesStore
store = SeriesStore(Path(sys.argv[1]), int(sys.argv[2]))
for i in range(10**6):
    store.add(float(sys.argv[2]) * 10**6 + i, {"engine": {"running": i, "waiting": i}}, {})
    print(i, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 23])
def test_a_killed_process_loses_no_reading_and_tears_none(tmp_path: Path, lines: int) -> None:
    for start in (0, 1):  # and the next start goes on with what the killed one left
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(start)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(lines)]
            writer.send_signal(signal.SIGKILL)
        series = read_series(tmp_path)["engine"]
        running = [r.value for r in series["running"] if r.time >= start * 10**6]
        assert running[: len(said)] == said, "a reading that was acknowledged is gone"
        assert [r.time for r in series["running"]] == [r.time for r in series["waiting"]], (
            "half a second was kept"
        )
        assert running == list(range(len(running)))


def test_a_run_killed_as_it_began_has_an_empty_series(tmp_path: Path) -> None:
    (tmp_path / SERIES_FILE).touch()
    assert read_series(tmp_path) == {}
    assert read_missed(tmp_path) == {}
    store = SeriesStore(tmp_path, 1)
    store.add(1.0, {"engine": {"running": 2}}, {"gpu": "none"})
    store.close()
    assert read_series(tmp_path)["engine"]["running"][0].value == 2
    assert read_missed(tmp_path) == {"gpu": ("none", 1)}


@contextmanager
def scraped(tmp_path: Path, url: str, **options: float) -> Iterator[Telemetry]:
    with Telemetry(
        tmp_path, start=0, scraper=Scraper(f"{url}/metrics"), interval_s=0.02, **options
    ) as telemetry:
        yield telemetry


async def test_a_server_is_asked_over_http() -> None:
    import asyncio

    paced = Paced(metrics=exposition(running=3, usage=0.25))
    async with serve_paced(paced) as url:
        scraper = Scraper(f"{url}/metrics", engine="sglang")
        values = await asyncio.to_thread(scraper.read)
        assert values[Measure.RUNNING] == 3
        assert values[Measure.KV_TOKENS] == 4000
        paced.metrics = "nothing 1\n"
        with pytest.raises(ScrapeError, match="--enable-metrics"):
            await asyncio.to_thread(scraper.read)
        paced.metrics_status = 404
        with pytest.raises(ScrapeError, match="HTTP 404; start SGLang with --enable-metrics"):
            await asyncio.to_thread(scraper.read)
        paced.metrics_status, paced.metrics = 200, "vllm:num_requests_running{engine= 1\n"
        with pytest.raises(ScrapeError, match="text format"):
            await asyncio.to_thread(scraper.read)
    with pytest.raises(ScrapeError, match="does not answer"):
        await asyncio.to_thread(scraper.read)


async def test_the_observer_proves_labels_and_says_how_far_a_prefill_is(tmp_path: Path) -> None:
    import asyncio

    paced = Paced(metrics=exposition(running=0, usage=0.0))
    async with serve_paced(paced) as url:
        observer = EngineObserver(interval_s=0.02, quiet_s=0.2)
        assert observer.describe_progress() == ""
        assert observer.find_hang() == ""
        server = ServerInfo(url, "paced", owned_by="vllm")
        await observer.start(ObservedRun(url=url, folder=tmp_path, server=server, start=0))
        try:
            await scraped_again(paced)
            began, job = time.time(), Job(8000, 0.5, 0, 1, 16)
            observer.on_started(job, began)
            paced.metrics = exposition(running=3, usage=0.25, preemptions=1)
            await scraped_again(paced)
            assert (
                observer.describe_progress()
                == "prefill about 50% of 8k tokens, KV 25.0%, 3 running, 0 waiting"
            )
            assert observer.find_hang() == ""
            labels = observer.find_labels(began, time.time(), 1)
            assert "preempted a request" in labels["preempted"]
            assert "3 requests while we had sent 1" in labels["co-running"]
            assert "co-running" not in observer.find_labels(began, time.time(), 3)
            observer.on_first_token(job, 0.1)
            assert observer.describe_progress().startswith("KV 25.0%")
            paced.metrics = exposition(running=0, waiting=1, usage=0.0)
            ends = time.monotonic() + 30
            while not observer.find_hang() and time.monotonic() < ends:
                await asyncio.sleep(0.02)
            assert "1 waiting, none running and nothing computed" in observer.find_hang()
        finally:
            await observer.stop()
    assert read_series(tmp_path)["engine"]["waiting"][-1].value == 1


async def scraped_again(paced: Paced) -> None:
    """Wait until answers that were under way have been read, and two newer ones."""
    import asyncio

    wanted = paced.scrapes + 3
    while paced.scrapes < wanted:
        await asyncio.sleep(0.005)


def test_samples_are_values_at_a_time() -> None:
    assert Sample(1.0, {Measure.RUNNING: 1}).took_s == 0.0
