"""The memory of one process, and how often it is looked at for the log and the metrics."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from farspan.errors import DoesNotFitError
from farspan.integrations.sglang import device_memory
from farspan.integrations.sglang.device_memory import START_VARIABLE, DeviceMemory
from farspan.kv.memory.budget.budget_file import FOLDER_VARIABLE
from farspan.kv.memory.budget.member import BudgetMember, budget_path
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.segments import SegmentPool

LIMIT = 100 * 4096


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


@pytest.fixture
def neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SegmentPool:
    """Somebody on the same budget."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("FARSPAN_BUDGET", "shared")
    monkeypatch.setattr(device_memory, "POOL_SEGMENT_BYTES", 4096)
    member = BudgetMember(budget_path("shared", "host"), "other", 2**40, limit=LIMIT)
    return SegmentPool(HostDriver(), 4096, quiet_s=1e6, budget=member, reread_s=0.0)


def server_memory() -> DeviceMemory:
    arguments = SimpleNamespace(
        enable_metrics=False, tp_size=1, pp_size=1, dp_size=1, served_model_name="llama", model_path="llama"
    )
    return DeviceMemory("cpu", 0, LIMIT, arguments)


def test_a_start_gets_what_a_neighbour_has_idle(neighbour: SegmentPool) -> None:
    neighbour.give(neighbour.take(100))
    neighbour.tick()
    memory = server_memory()
    tries: list[int] = []

    def make() -> object:
        tries.append(1)
        neighbour.tick()  # what it does all the time
        return memory.segments.take(10)

    handles = memory.at_start(make)
    assert len(tries) > 1
    assert isinstance(handles, list)
    assert len(handles) == 10
    assert neighbour.statistics().created == 90


def test_a_start_that_finds_everything_in_use_says_who_has_it(
    neighbour: SegmentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(START_VARIABLE, "0.2")
    neighbour.take(100)
    neighbour.tick()
    memory = server_memory()
    with pytest.raises(
        DoesNotFitError, match=r"no room for this server to start, 0.2 s long: .*: other \(process"
    ):
        memory.at_start(lambda: memory.segments.take(10))


def test_without_a_budget_a_start_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARSPAN_BUDGET", raising=False)
    memory = server_memory()
    tries: list[int] = []

    def make() -> None:
        tries.append(1)
        raise NoRoomError("it is full")

    with pytest.raises(DoesNotFitError, match="no memory to start with: it is full"):
        memory.at_start(make)
    assert tries == [1]
