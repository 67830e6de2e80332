"""The segment pool: caps, neighbours, the quiet time, and every failure rolled back."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from failing_driver import Clock, FailingDriver
from fake_cuda import GRANULE, FakeCuda
from farspan.errors import InputError
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.cuda import CudaDriver
from farspan.kv.memory.drivers.driver import Driver, DriverError, Fence, Memory, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.elastic_tables import RequestTable
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.ranges import SegmentedRange
from farspan.kv.memory.segments import SegmentPool

SEGMENT = 1 << 14


class _Held(Fence):
    passed = False

    def done(self) -> bool:
        return self.passed


@pytest.mark.parametrize(
    ("cap", "free", "held", "limit"),
    [
        (Cap(), 100, 50, 150),
        (Cap(fixed_bytes=80), 100, 50, 80),
        (Cap(fixed_bytes=800), 100, 50, 150),
        (Cap(share=0.5), 100, 50, 75),
        (Cap(share=0.5), 30, 50, 40),  # a neighbour took memory: less may be held than is
        (Cap(headroom_bytes=70), 100, 50, 80),
        (Cap(headroom_bytes=200), 100, 50, 0),
    ],
)
def test_the_cap_follows_what_is_free(cap: Cap, free: int, held: int, limit: int) -> None:
    assert cap.limit(Memory(free, 1000), held) == limit


@pytest.mark.parametrize(
    "wrong", [{"share": 0.0}, {"share": 1.1}, {"headroom_bytes": -1}, {"fixed_bytes": -1}]
)
def test_an_impossible_cap_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Cap(**wrong)


def test_a_neighbour_takes_memory_and_gives_it_back() -> None:
    clock, neighbour = Clock(), [0]

    class Shared(HostDriver):
        def memory(self) -> Memory:
            return Memory(20 * SEGMENT - neighbour[0] - self.physical_bytes(), 20 * SEGMENT)

    driver = Shared()
    pool = SegmentPool(driver, SEGMENT, Cap(share=0.8), quiet_s=8, clock=clock, reread_s=0)
    assert pool.room() == 16
    handles = pool.take(10)
    neighbour[0] = 8 * SEGMENT
    assert pool.room() == 0  # 0.8 of (2 free + 10 held) is 9
    with pytest.raises(NoRoomError, match="free pages, raise the cap"):
        pool.take(1)
    pool.give(handles[:3])
    pool.tick()  # what is idle above the cap goes at once, not after the quiet time
    assert driver.live_handles == 9
    neighbour[0] = 0
    assert len(pool.take(pool.room())) == 9
    pool.check_integrity()
    driver.close()


def test_idle_segments_go_after_the_quiet_time_behind_their_fence() -> None:
    clock, driver = Clock(), HostDriver()
    pool = SegmentPool(driver, SEGMENT, quiet_s=8, clock=clock)
    first, second = pool.take(2)
    fence = _Held()
    pool.give([first], fence)
    pool.give([second])
    assert pool.take(1) == [second]  # at once
    pool.give([second])
    clock.now = 7.9
    pool.tick()
    assert driver.live_handles == 1  # three quarters of the quiet time are over, the fence is not passed
    assert first.alive
    fence.passed = True
    pool.tick()
    assert driver.physical_bytes() == 0
    pool.check_integrity()
    driver.close()


def test_taking_is_all_or_none_wherever_creating_fails() -> None:
    driver = FailingDriver()
    pool = SegmentPool(driver, SEGMENT, clock=Clock())
    pool.give(pool.take(2))
    for call in range(1, 6):
        driver.arm(call)
        with pytest.raises(NoRoomError):
            pool.take(7)
        pool.check_integrity()
        assert driver.live_handles == 2
        assert pool.statistics().idle == 2
    driver.arm(0)
    assert len(pool.take(7)) == 7
    driver.close()


def test_a_range_refuses_what_it_does_not_have() -> None:
    driver = HostDriver()
    pool = SegmentPool(driver, SEGMENT)
    one = SegmentedRange(pool, 3 * SEGMENT - 5)
    assert one.size == 3 * SEGMENT
    first, second = pool.take(2)
    one.map_segment(1, first)
    for mistake in (
        lambda: one.map_segment(1, second),
        lambda: one.map_segment(3, second),
        lambda: one.map_segments(-1, [second]),
        lambda: one.unmap_segment(0),
        lambda: one.numpy("uint8", (3 * SEGMENT + 1,)),
    ):
        with pytest.raises(DriverError):
            mistake()
    assert [one.mapped(index) for index in range(3)] == [False, True, False]
    view = one.numpy("int16", (3, SEGMENT // 2))
    view[1] = 7
    assert one.tensor().shape == (3 * SEGMENT,)
    assert int(one.tensor()[SEGMENT]) == 7
    assert one.unmap_segment(1) is first
    pool.give([first, second])
    one.close()
    pool.close()
    assert driver.reserved_bytes == 0
    driver.close()


def test_fp8_and_bf16_views_share_the_bytes() -> None:
    import torch

    driver = HostDriver()
    pool = SegmentPool(driver, SEGMENT)
    one = SegmentedRange(pool, SEGMENT)
    one.map_segment(0, pool.take(1)[0])
    one.tensor(torch.float8_e4m3fn, (64,)).copy_(torch.full((64,), 1.5))
    expected = torch.full((64,), 1.5).to(torch.float8_e4m3fn).view(torch.uint8)
    assert torch.equal(one.tensor()[:64], expected)
    one.tensor(torch.bfloat16, (2, 8))[1] = 2.0
    assert one.numpy("uint16")[8:16].tolist() == [0x4000] * 8
    one.close()
    driver.close()


def _growing_everything(driver: Driver, pool: SegmentPool) -> None:
    """Use every call of a driver, and give all of it back."""
    pages = PagePool(pool, [SEGMENT // 8, SEGMENT // 16], 1, 64)
    table = RequestTable(pool, 3, 9000)
    try:
        held = pages.alloc(40)
        if held is None:
            raise NoRoomError("no pages")
        row = table.alloc_row()
        assert row is not None
        table.append(row, np.arange(9000, dtype=np.int32))
        table.free_row(row)
        pages.free(held)
    finally:
        pages.close()
        table.close()


def test_a_failure_at_any_driver_call_leaves_nothing_and_can_be_tried_again() -> None:
    failures = 0
    for call in range(1, 200):
        driver, clock = FailingDriver(), Clock()
        pool = SegmentPool(driver, SEGMENT, clock=clock)
        driver.arm(call)
        try:
            _growing_everything(driver, pool)
        except (NoRoomError, DriverError):
            failures += 1
        failed = driver.failed
        driver.arm(0)
        pool.check_integrity()
        driver.check_integrity()
        if not driver.mapped_bytes and not driver.reserved_bytes:
            _growing_everything(driver, pool)  # and it works again
            pool.close()
            assert driver.physical_bytes() == 0
            assert driver.reserved_bytes == 0
        driver.close()
        if not failed:
            assert call > 20, "most calls were made to fail"
            break
    else:
        raise AssertionError("the calls never ended")
    assert failures > 10


def test_on_a_gpu_nothing_is_unmapped_under_a_running_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(40 * GRANULE)
    monkeypatch.setitem(sys.modules, "cuda", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake)
    clock = Clock()
    driver = CudaDriver(streams=lambda: (0,))
    pool = SegmentPool(driver, GRANULE, quiet_s=8, clock=clock, reread_s=0)
    first = PagePool(pool, [GRANULE // 8] * 2, 1, 400)
    second = PagePool(pool, [GRANULE // 8], 1, 400)
    held = first.alloc(100)
    assert held is not None
    fake.launch(first._backing.ranges[0].address, 100 * GRANULE // 8 // GRANULE * GRANULE)
    first.free(held)
    for _ in range(20):
        clock.now += 1
        first.tick()
        pool.tick()
    assert first.mapped_bytes == 26 * GRANULE  # the kernel still runs
    assert second.alloc(8 * 20) is None  # what it uses is not taken from it either
    fake.finish()
    got = second.alloc(8 * 20)  # now it moves over
    assert got is not None
    fake.neighbour = fake.total  # somebody takes all the rest: no room, and no crash
    assert second.alloc(8 * 19) is None
    second.free(got)
    for _ in range(20):
        clock.now += 1
        for one in (first, second, pool):
            one.tick()
    assert driver.physical_bytes() == 3 * GRANULE  # one segment a range
    for one in (first, second, pool, driver):
        one.check_integrity()
    for one in (first, second, pool, driver):
        one.close()
    fake.check_clean()
