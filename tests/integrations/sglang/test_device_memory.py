"""The memory of one process, and how often it is looked at for the log and the metrics."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from farspan.integrations.sglang.device_memory import DeviceMemory


def test_turns_of_an_idle_scheduler_look_at_the_memory_ten_times_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("FARSPAN_BUDGET", raising=False)
    caplog.set_level(logging.INFO, "sglang.farspan")
    memory = DeviceMemory("cpu", 2**20, None, SimpleNamespace(enable_metrics=False))
    now = 0.0
    memory.segments.clock = lambda: now
    looks: list[float] = []
    statistics = memory.segments.statistics
    monkeypatch.setattr(memory.segments, "statistics", lambda: (looks.append(now), statistics())[1])
    for turn in range(1000):
        now = turn / 1000
        memory.note()
    assert len(looks) == 10
    held = memory.segments.take(2)
    now = 2.0
    memory.note()
    assert "farspan memory: grew to" in caplog.text
    memory.segments.give(held)
    memory.driver.close()
