from __future__ import annotations

import time
from dataclasses import replace

import pytest

from farspan.measurement.analysis import labels
from farspan.measurement.analysis.labels import Surroundings, find_around, find_labels
from farspan.measurement.http.client import Exchange, Lag
from farspan.measurement.http.target import is_local
from farspan.measurement.observe.processors import CpuReading, find_others_cpu, read_cpu
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.result import is_warm
from samples import make_exchange

JOB = Job(context=1000, depth=0.5, repeat=0, seed=1, output_tokens=4)
GOOD = make_exchange()


def test_nothing_happened() -> None:
    quiet = Surroundings(others_cpu=0.0)
    assert find_labels(JOB, replace(GOOD, clock_jump_s=0.05, lag=Lag(0.0001, 0.001, 0.009)), quiet) == {}


@pytest.mark.parametrize(
    ("exchange", "around", "name", "words"),
    [
        (GOOD, Surroundings(most_at_once=8), "concurrent", "8 requests of ours"),
        (GOOD, Surroundings(others_cpu=3.5), "co-running", "3.5 of the client's 4 processors"),
        (replace(GOOD, clock_jump_s=-3.2), Surroundings(), "clock-jump", "-3.200 s"),
        (replace(GOOD, lag=Lag(0.1, 0.3, 0.4)), Surroundings(), "client-lag", "p99 300.0 ms"),
        (GOOD, Surroundings(observed={"preempted": "twice"}), "preempted", "twice"),
    ],
)
def test_what_happened_around_a_request_is_a_label_with_evidence(
    monkeypatch: pytest.MonkeyPatch, exchange: Exchange, around: Surroundings, name: str, words: str
) -> None:
    monkeypatch.setattr(labels.os, "cpu_count", lambda: 4)
    found = find_labels(JOB, exchange, around)
    assert list(found) == [name]
    assert words in found[name]
    assert find_around(exchange, around) == found


def test_a_clock_that_is_slewed_for_an_hour_has_not_jumped() -> None:
    hour = replace(GOOD, ended_s=3600.0, clock_jump_s=1.5)
    assert find_around(hour, Surroundings()) == {}
    assert "clock-jump" in find_around(replace(hour, clock_jump_s=2.5), Surroundings())


def test_lag_that_moves_no_time_is_no_label() -> None:
    lag = Lag(0.001, 0.02, 0.03)
    assert find_around(replace(GOOD, lag=lag), Surroundings()) == {}  # tokens came 100 ms apart
    at_once = replace(GOOD, lag=lag, token_times_s=(2.0, 2.0, 2.0001))
    assert find_around(at_once, Surroundings()) == {}
    close = replace(GOOD, lag=lag, token_times_s=(2.0, 2.01, 2.02))
    assert "client-lag" in find_around(close, Surroundings())


def test_others_use_of_the_processors_is_what_is_not_ours() -> None:
    before, after = CpuReading(10.0, 100.0, 5.0), CpuReading(14.0, 110.0, 7.0)
    assert find_others_cpu(before, after) == pytest.approx(2.0)
    assert find_others_cpu(before, CpuReading(10.5, 101.0, 5.0)) is None
    assert find_others_cpu(None, after) is None


def test_this_machine_can_be_read() -> None:
    before = read_cpu()
    end = time.perf_counter() + 1.05
    while time.perf_counter() < end:
        pass
    after = read_cpu()
    assert before is not None
    assert after is not None
    used = find_others_cpu(before, after)
    assert used is not None
    assert 0.0 <= used <= (labels.os.cpu_count() or 1) + 0.2


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:1", True),
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://10.0.0.1:1", False),
        ("https://example.org", False),
    ],
)
def test_whether_a_server_is_here(url: str, local: bool) -> None:
    assert is_local(url) is local


@pytest.mark.parametrize(
    ("cached", "prompt", "warm"),
    [
        *((None, 1000, False), (0, 1000, False), (1, 1000, False), (9, 1000, False), (10, 1000, True)),
        *((15, 10_000, False), (16, 10_000, True), (1, 100, True), (1, 101, False)),
    ],
)
def test_what_all_prompts_share_is_not_warm(cached: int | None, prompt: int, warm: bool) -> None:
    assert is_warm(cached, prompt) is warm
