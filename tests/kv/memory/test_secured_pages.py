"""Pages that are secured before they are needed, and the map that grows with them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from failing_driver import FailingDriver
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool
from farspan.kv.memory.slot_map import SlotMap
from farspan.kv.memory.zero_backed_rows import ZeroBackedRows

SEGMENT = 4096
ROW = 64  # 64 pages a segment


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pool(segments: int) -> SegmentPool:
    return SegmentPool(
        HostDriver(), SEGMENT, Cap(fixed_bytes=segments * SEGMENT), quiet_s=8, clock=Clock(), reread_s=0
    )


def test_what_is_secured_is_not_given_up_and_alloc_cannot_fail() -> None:
    segments = pool(10)
    first, second = PagePool(segments, [ROW], 1, 2000), PagePool(segments, [ROW], 1, 2000)
    assert first.secure(300) >= 300
    assert second.secure(1000) == 5 * 64  # what is left, and no more
    assert second.alloc(6 * 64) is None
    assert first.alloc(300) is not None
    first.check_integrity()


def test_what_is_kept_no_longer_moves_to_who_needs_it() -> None:
    segments = pool(10)
    first, second = PagePool(segments, [ROW], 1, 2000), PagePool(segments, [ROW], 1, 2000)
    assert first.secure(500) >= 500
    assert second.secure(300) == 2 * 64
    first.keep(64)
    assert second.secure(300) >= 300
    assert first.free_pages >= 64
    assert first.mapped_bytes + second.mapped_bytes <= 10 * SEGMENT


def test_pages_are_prepared_before_anybody_gets_them_and_covered_before_they_have_memory() -> None:
    segments = pool(40)
    pages, seen = PagePool(segments, [ROW], 1, 2000), []
    pages.prepare_with(lambda low, high: seen.append((low, high)))
    pages.cover_with(lambda stop: seen.append(stop))
    pages.secure(100)
    assert seen == [128, (64, 128)]

    def refuse(_stop: int) -> None:
        raise NoRoomError("no room for the map")

    pages.cover_with(refuse)
    assert pages.secure(1000) == 128
    assert pages.mapped_pages == 128
    pages.check_integrity()


def test_what_is_mapped_late_has_memory_at_once_and_is_mapped_when_it_is_handed_out() -> None:
    driver = FailingDriver()
    segments = SegmentPool(driver, SEGMENT, Cap(fixed_bytes=40 * SEGMENT), clock=Clock(), reread_s=0)
    pages, seen = PagePool(segments, [ROW, ROW], 1, 2000), []
    pages.prepare_with(lambda low, high: seen.append((low, high)))
    pages.map_late()
    mapped = driver.mapped_bytes
    assert pages.secure(300) >= 300
    assert driver.mapped_bytes == mapped
    assert driver.physical_bytes() == pages.mapped_bytes == 2 * 5 * SEGMENT
    assert not seen
    first = pages.alloc(100)
    assert first is not None
    assert seen == [(64, 128)]
    assert driver.mapped_bytes == mapped + 2 * SEGMENT
    driver.arm(1)
    assert pages.alloc(100) is None, "it cannot be mapped now"
    driver.arm(0)
    assert pages.free_pages >= 100
    assert pages.alloc(100) is not None
    pages.free(first)
    pages.keep(0)
    pages.release_empty()  # what was never mapped goes back without being unmapped
    assert pages.mapped_bytes == 2 * 4 * SEGMENT
    pages.check_integrity()
    pages.close()
    segments.close()
    assert not driver.live_handles


def test_a_segment_that_is_grown_ahead_is_ready_and_goes_when_nobody_used_it() -> None:
    driver, clock = FailingDriver(), Clock()
    segments = SegmentPool(driver, SEGMENT, Cap(fixed_bytes=40 * SEGMENT), quiet_s=8, clock=clock, reread_s=0)
    pages, seen = PagePool(segments, [ROW, ROW], 1, 2000), []
    pages.prepare_with(lambda low, high: seen.append((low, high)))
    pages.map_late()
    used = pages.alloc(30)
    assert not pages.grow_ahead(1), "two layers take two segments"
    assert driver.mapped_bytes == 2 * SEGMENT
    assert pages.grow_ahead(2)
    assert driver.mapped_bytes == 4 * SEGMENT
    assert seen == [(64, 128)]
    assert pages.grow_ahead(0), "a whole segment is free"
    assert pages.alloc(34 + 64) is not None
    assert (driver.mapped_bytes, len(seen)) == (4 * SEGMENT, 1), "who came next waited for nothing"
    pages.free(np.arange(30, 128, dtype=np.int32))
    pages.keep(1)
    pages.keep(0)
    pages.tick()
    assert pages.grow_ahead(2)
    assert len(seen) == 1, "what stayed mapped is not prepared again"
    pages.keep(1)
    pages.keep(0)
    for _ in range(3):
        clock.now += 5
        pages.tick()
        segments.tick()
    assert driver.mapped_bytes == 2 * SEGMENT
    pages.check_integrity()
    assert used is not None
    pages.close()
    segments.close()
    assert not driver.live_handles


def test_little_of_what_is_idle_goes_at_once_where_the_most_is_said() -> None:
    segments = pool(40)
    clock = segments.clock
    assert isinstance(clock, Clock)
    pages = PagePool(segments, [ROW], 1, 2000)
    assert pages.alloc(640) is not None
    pages.free_all()
    clock.now += 5
    pages.tick()
    for left in (7, 4):
        clock.now += 5
        pages.tick(3)
        assert pages.mapped_bytes == left * SEGMENT
    clock.now += 10
    created = segments.statistics().created
    segments.tick(2)
    assert segments.statistics().created == created - 2
    segments.tick()
    assert segments.statistics().idle == 0


def test_free_all_takes_shared_pages_back_too() -> None:
    pages = PagePool(pool(40), [ROW], 1, 2000)
    held = pages.alloc(100)
    assert held is not None
    pages.share(held[:10])
    pages.free_all()
    assert pages.used == 0
    assert len(pages.in_use()) == 0


def test_a_map_reads_as_zero_everywhere_and_ends_with_minus_one() -> None:
    segments = pool(10)
    slots = SlotMap(segments, 5000, lambda: None)
    begun = slots.mapped_bytes
    assert begun == SEGMENT
    assert int(slots.tensor[-1]) == -1
    assert int(slots.tensor[:-1].count_nonzero()) == 0
    slots.cover(700)
    slots.tensor[:700] = 7
    assert int(slots.tensor.sum()) == 7 * 700 - 1
    slots.clear()
    assert int(slots.tensor.sum()) == -1
    slots.uncover(100)
    clock = segments.clock
    assert isinstance(clock, Clock)
    clock.now += 20
    slots.tick()
    assert slots.mapped_bytes == 2 * SEGMENT
    slots.check_integrity()
    with pytest.raises(NoRoomError):
        (taken := segments.take(8)) and slots.cover(2000)
    assert len(taken) == 8
    slots.check_integrity()
    slots.close()


def test_a_map_without_room_leaves_nothing_behind() -> None:
    segments = pool(2)
    taken = segments.take(2)
    with pytest.raises(NoRoomError):
        SlotMap(segments, 5000, lambda: None)
    assert segments.driver.reserved_bytes == 0
    segments.give(taken)
    assert segments.room() == 2, "nobody is asked who is gone"


def test_rows_to_come_are_reserved() -> None:
    segments = pool(10)
    rows = ZeroBackedRows(segments, 4, 2 * SEGMENT, lambda: None)
    assert rows.row_segments == 3
    assert rows.affordable() == 3
    assert rows.reserve(8)
    assert segments.room() == 2
    assert not rows.reserve(11)
    assert rows.reserve(3)
    assert segments.room() == 7
    taken = segments.take(7)
    assert rows.affordable() == 1
    rows.hold([(1, 5)])  # out of the reserve
    assert np.count_nonzero(rows._backing._users[0]) == 1
    segments.give(taken)
    rows.check_integrity()
    rows.close()


def test_growth_that_is_refused_in_parts_gets_on_although_nothing_of_it_is_kept() -> None:
    """What was had stays mapped for the quiet time: the next attempt begins where the last one ended."""
    driver, chance = HostDriver(), random.Random(5)
    segments = SegmentPool(driver, driver.granularity, reread_s=0.0)
    pages = PagePool(segments, [driver.granularity], 1, 64)
    create = driver._create

    def refusing(size: int) -> object:
        if chance.random() < 0.4:
            raise NoRoomError("refused by the test")
        return create(size)

    driver._create = refusing  # type: ignore[method-assign, assignment]
    found = []
    for _ in range(60):
        found.append(pages.secure(60))
        pages.keep(0)
        pages.tick()
    assert found[0] < 60
    assert found[-1] >= 60
    pages.check_integrity()
    pages.close()
    segments.close()
    driver.close()
