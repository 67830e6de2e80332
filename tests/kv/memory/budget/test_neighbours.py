"""Which neighbours are waited for: those that look, however late."""

from __future__ import annotations

from pathlib import Path

import pytest

from failing_driver import Clock
from farspan.kv.memory.budget.member import BudgetMember
from farspan.kv.memory.budget.neighbours import SILENT_S, Neighbour, RoomWait, SilenceCount

ONE, OTHER = Neighbour(0, 10, 100), Neighbour(1, 11, 100)


def test_figures_are_current_after_a_whole_look() -> None:
    wait = RoomWait()
    assert not wait.is_current(ONE, 7)
    assert not wait.is_current(ONE, 8), "it may have begun before"
    assert wait.is_current(ONE, 9)
    assert not wait.is_current(ONE._replace(pid=12), 9), "another, in the same slot"
    assert (wait.looks(ONE, 20), wait.looks(OTHER, 20)) == (13, 0)


def test_silence_is_counted_by_the_looks_of_who_waits() -> None:
    clock = Clock()
    silences = SilenceCount(clock)
    silences.count([(ONE, 1), (OTHER, 1)])
    for look in range(100):
        clock.now += 0.5
        silences.count([(ONE, 1), (OTHER, 1 + look // 10)])
    assert silences.seconds(ONE) == pytest.approx(50)
    assert silences.is_silent(ONE)
    assert silences.seconds(OTHER) < 5
    clock.now += 10_000  # who counts was stopped itself
    silences.count([(ONE, 2), (OTHER, 10)])
    assert silences.seconds(ONE) == 0
    assert not silences.is_silent(OTHER)
    silences.count([(OTHER, 10)])
    assert not silences.is_silent(ONE), "it has left"


def test_a_budget_that_stays_locked_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "shared@host.budget"
    member, stopped = (BudgetMember(path, name, 1000, limit=100) for name in ("one", "stopped"))
    monkeypatch.setattr("farspan.kv.memory.budget.budget_file._LOCK_ALL_S", 0.01)
    part, wait = member.part(), RoomWait()
    with stopped._file.locked():
        assert not part.promise(50, 1000)
        assert member.prospect(1000, wait).size == 100
        assert member._refused_since is not None
        member._refused_since -= SILENT_S
        assert not part.promise(50, 1000)
        found = member.prospect(1000, wait)
        assert found.size == 0
        assert "has been locked for 0.01 s" in found.limits[0]
    assert part.promise(50, 1000)
    assert member.prospect(1000, wait).size == 100
    for each in (member, stopped):
        each.close()
