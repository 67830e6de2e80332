"""Segment pools on one budget: memory moves between them, limits are followed down, idle memory goes when asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from failing_driver import Clock, FailingDriver
from fake_cuda import GRANULE, FakeCuda
from farspan.kv.memory.budget.budget_file import BudgetFile
from farspan.kv.memory.budget.member import BudgetMember
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.choose import device_id
from farspan.kv.memory.drivers.cuda import CudaDriver
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool

SEGMENT = 1 << 14
LIMIT = 10 * SEGMENT


class Server:
    """A process as the budget sees it: a member with a pool."""

    def __init__(self, path: Path, name: str, clock: Clock, driver: HostDriver | None = None) -> None:
        self.driver = driver or HostDriver()
        self.member = BudgetMember(path, name, 2**40, limit=LIMIT)
        self.clock = clock
        self.pool = SegmentPool(
            self.driver, SEGMENT, quiet_s=100, reread_s=0, clock=clock, budget=self.member
        )

    @property
    def segments(self) -> int:
        return self.driver.physical_bytes() // SEGMENT

    def close(self) -> None:
        self.pool.close()
        self.member.close()
        self.driver.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "shared@host.budget"


@pytest.fixture
def servers(path: Path) -> Iterator[tuple[Server, Server]]:
    clock = Clock()
    pair = Server(path, "one", clock), Server(path, "two", clock)
    yield pair
    for server in pair:
        server.close()


def test_memory_moves_from_an_idle_server_to_a_loaded_one(servers: tuple[Server, Server]) -> None:
    one, two = servers
    one.pool.give(one.pool.take(10))
    one.pool.tick()
    assert one.segments == 10, "nobody lacks it"
    with pytest.raises(
        NoRoomError, match=r"budget shared@host of 160 KiB, 160 KiB of which 1 neighbours hold"
    ):
        two.pool.take(6)
    one.pool.tick()
    assert one.segments == 4, "what was wished for, and no more"
    assert two.pool.room() == 6
    two.pool.give(two.pool.take(6))
    one.pool.tick()
    two.pool.tick()
    assert (one.segments, two.segments) == (4, 6)


def test_empty_segments_of_pages_go_to_a_neighbour_too(servers: tuple[Server, Server]) -> None:
    one, two = servers
    pages = PagePool(one.pool, [SEGMENT // 4], 1, 100)
    held = pages.alloc(40)
    assert held is not None
    assert one.segments == 10
    pages.free(held)
    with pytest.raises(NoRoomError):
        two.pool.take(5)
    one.pool.tick()
    assert one.segments == 5
    two.pool.give(two.pool.take(5))
    pages.check_integrity()
    assert pages.alloc(40) is None, "its neighbour's half is not given again"
    two.pool.tick()
    assert pages.alloc(20) is not None
    pages.close()


def test_a_lowered_limit_is_followed_down_as_memory_becomes_idle(
    path: Path, servers: tuple[Server, Server]
) -> None:
    one, two = servers
    lent = one.pool.take(6)
    two.pool.give(two.pool.take(4))
    tool = BudgetFile(path)
    with tool.locked():
        tool.write_limit(5 * SEGMENT)
    two.pool.tick()
    one.pool.tick()
    assert (one.segments, two.segments) == (6, 0), "idle memory goes at once, what is in use stays"
    assert one.pool.room() == 0
    one.pool.give(lent[:2])
    one.pool.tick()
    assert one.segments == 5
    with tool.locked():
        tool.write_limit(None)
    assert one.pool.room() > 100
    one.pool.give(lent[2:])
    tool.close()


def test_one_servers_own_limit(path: Path, servers: tuple[Server, Server]) -> None:
    one, two = servers
    one.pool.give(one.pool.take(8))
    tool = BudgetFile(path)
    number = next(number for number, slot in tool.members().items() if slot.name == "one")
    with tool.locked():
        tool.ask(number, 3 * SEGMENT, 0)
    one.pool.tick()
    assert one.segments == 3
    assert (one.pool.limit_segments(), two.pool.limit_segments()) == (3, 10)
    tool.close()


def test_trim_gives_all_that_is_idle_back_once(path: Path, servers: tuple[Server, Server]) -> None:
    one, _ = servers
    pages = PagePool(one.pool, [SEGMENT // 4], 1, 100)
    held = pages.alloc(32)
    assert held is not None
    pages.free(held[8:])
    one.pool.give(one.pool.take(2))
    tool = BudgetFile(path)
    number = next(number for number, slot in tool.members().items() if slot.name == "one")
    assert tool.members()[number].idle == 0, "it is said at the next tick"
    with tool.locked():
        tool.ask(number, None, 1)
    one.pool.tick()
    slot = tool.members()[number]
    assert (one.segments, slot.trims_done, slot.held, slot.idle) == (2, 1, 2 * SEGMENT, 0)
    one.pool.give(one.pool.take(2))
    one.pool.tick()
    assert one.segments == 4, "once it was asked, once it is done"
    pages.free(held[:8])
    pages.close()
    tool.close()


def test_a_promise_keeps_a_neighbour_from_the_room(servers: tuple[Server, Server]) -> None:
    one, two = servers
    assert one.pool.promise(7)
    assert two.pool.room() == 3
    with pytest.raises(NoRoomError):
        two.pool.take(4)
    assert not two.pool.promise(4)
    one.pool.give(one.pool.take(7))  # used up: idle now, and asked for
    one.pool.tick()
    assert two.pool.room() == 4
    assert two.pool.promise(4)
    one.pool.tick()
    assert one.segments == 6
    assert not one.pool.promise(8), "more than what is idle here and what two leaves"
    assert one.pool.promise(0)


def test_promise_all_counts_what_is_lent(servers: tuple[Server, Server]) -> None:
    one, two = servers
    lent = one.pool.take(6)
    assert one.pool.promise_all(8)
    assert two.pool.room() == 2
    assert not one.pool.promise_all(11)
    one.pool.give(lent)


def test_evictors_are_asked_when_nothing_is_idle(servers: tuple[Server, Server]) -> None:
    one, two = servers
    pages = PagePool(one.pool, [SEGMENT // 4], 1, 100)
    cached: list[np.ndarray] = [pages.alloc(4) for _ in range(10)]  # type: ignore[misc]

    class Cache:
        def evictable(self) -> int:
            return len(cached)

        def evict(self, count: int) -> bool:
            gone, cached[:] = cached[-count:], cached[:-count]
            for each in gone:
                pages.free(each)
            return bool(gone)

    one.pool.register_evictor(Cache())
    one.pool.tick()
    with pytest.raises(NoRoomError):
        two.pool.take(3)
    one.pool.tick()
    assert (len(cached), one.segments) == (7, 7)
    two.pool.give(two.pool.take(3))
    for each in cached:
        pages.free(each)
    cached.clear()
    pages.close()


@pytest.mark.parametrize("fail_at", range(1, 5))
def test_a_device_that_fails_leaves_the_budget_right(path: Path, fail_at: int) -> None:
    driver = FailingDriver()
    server = Server(path, "one", Clock(), driver)
    driver.arm(fail_at)
    with pytest.raises(NoRoomError, match="injected"):
        server.pool.take(4)
    assert server.member.held == driver.physical_bytes() == 0
    lent = server.pool.take(4)
    assert server.member.held == driver.physical_bytes() == 4 * SEGMENT
    server.pool.give(lent)
    server.close()


def test_two_pools_of_one_process_share_its_place(path: Path) -> None:
    driver, clock = HostDriver(), Clock()
    member = BudgetMember(path, "one", 2**40, limit=LIMIT)
    first = SegmentPool(driver, SEGMENT, quiet_s=100, reread_s=0, clock=clock, budget=member)
    second = SegmentPool(driver, 2 * SEGMENT, Cap(), quiet_s=100, reread_s=0, clock=clock, budget=member)
    first.give(first.take(4))
    assert second.room() == 3
    second.give(second.take(3))
    assert member.held == 10 * SEGMENT
    with pytest.raises(NoRoomError):
        second.take(4)
    first.close()
    second.close()
    assert member.held == 0
    member.close()
    driver.close()


def test_nobody_gives_memory_back_for_what_anothers_own_cap_forbids(path: Path) -> None:
    clock = Clock()
    one, two = Server(path, "one", clock), Server(path, "two", clock)
    capped = SegmentPool(
        two.driver, SEGMENT, Cap(fixed_bytes=2 * SEGMENT), reread_s=0, clock=clock, budget=two.member
    )
    one.pool.give(one.pool.take(9))
    with pytest.raises(NoRoomError):
        capped.take(6)
    one.pool.tick()
    assert one.segments == 8, "two segments would have been of use, and one was free"
    capped.close()
    for server in (one, two):
        server.close()


def test_a_gpu_is_known_by_its_uuid_whatever_number_it_has(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCuda(40 * GRANULE)
    for name in ("cuda", "cuda.bindings", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, name, fake)
    driver = CudaDriver(streams=lambda: (0,))
    assert device_id(driver) == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert device_id(HostDriver()) == "host"
    member = BudgetMember(path, "one", driver.memory().total, limit=8 * GRANULE)
    pool = SegmentPool(driver, GRANULE, quiet_s=100, reread_s=0, budget=member)
    pool.give(pool.take(8))
    with pytest.raises(NoRoomError, match="budget shared@host"):
        pool.take(9)
    assert (member.held, driver.physical_bytes()) == (8 * GRANULE, 8 * GRANULE)
    pool.close()
    member.close()
    driver.close()
