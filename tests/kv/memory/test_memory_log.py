"""Lines about elastic memory: when there is something to say, no more often than it is worth, and who is in the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from failing_driver import Clock
from farspan.errors import KVError
from farspan.kv.memory.budget.member import BudgetMember
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.memory_log import MemoryLog
from farspan.kv.memory.segments import SegmentPool

SEGMENT = 2**20


def fields(line: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", line))


def test_growth_and_shrinking_are_said_once_in_a_while() -> None:
    clock, driver, lines = Clock(), HostDriver(), list[str]()
    pool = SegmentPool(driver, SEGMENT, quiet_s=0, reread_s=0, clock=clock)
    log = MemoryLog(pool, lines.append)
    log.note()
    assert lines == []
    lent = pool.take(8)
    log.note()
    assert lines == ["farspan memory: grew to 8.0 MiB: " + lines[0].partition("MiB: ")[2]]
    assert (
        fields(lines[0]).items()
        >= {"held": str(8 * SEGMENT), "idle": "0", "lacking": "0", "exchanged": "0"}.items()
    )
    lent += pool.take(8)
    log.note()
    assert len(lines) == 1, "too soon"
    clock.now = 5
    log.note()
    assert lines[1].startswith("farspan memory: grew to 16.0 MiB: ")
    pool.give(lent)
    clock.now = 6
    pool.tick()
    clock.now = 11
    log.note()
    assert lines[2].startswith("farspan memory: shrank to 0 B: ")
    pool.close()
    driver.close()


@pytest.mark.parametrize(
    ("limit", "neighbour", "by"), [(10, 8, "neighbours"), (10, 1, "limit"), (None, 1, "device")]
)
def test_waiting_says_what_is_in_the_way(tmp_path: Path, limit: int | None, neighbour: int, by: str) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "shared@host.budget"
    driver = HostDriver(limit_bytes=10 * SEGMENT)
    lines, clock = list[str](), Clock()
    most = None if limit is None else limit * SEGMENT
    member, other = (BudgetMember(path, name, 100 * SEGMENT, limit=most) for name in ("one", "other"))
    assert other.part().claim(neighbour * SEGMENT, 100 * SEGMENT)
    pool = SegmentPool(driver, SEGMENT, reread_s=0, clock=clock, budget=member)
    log = MemoryLog(pool, lines.append)
    lent = pool.take(2)
    log.note()
    with pytest.raises(KVError):
        pool.take(5 if by == "neighbours" else 20)
    log.note()
    log.note()
    assert len(lines) == 2, "growth, and then at once what is lacking; the same again only after a while"
    assert re.match(r"farspan memory: waits for (5|20)\.0 MiB: held=2097152 ", lines[1])
    assert fields(lines[1]).items() >= {"by": by, "budget": "shared", "neighbours": "1"}.items()
    assert fields(lines[1])["limit"] == ("none" if limit is None else str(most))
    pool.give(lent)
    pool.close()
    for each in (member, other):
        each.close()
    driver.close()
