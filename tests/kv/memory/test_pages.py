"""Pages: order, growth, sharing, pressure, an hour of churn, and that millions of them are cheap."""

from __future__ import annotations

import numpy as np
import pytest

from failing_driver import Clock
from farspan.errors import InputError
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.driver import DriverError, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.elastic_tables import RequestTable
from farspan.kv.memory.page_refs import PageReferences
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool
from farspan.kv.sizing import fit_segment

SEGMENT = 1 << 14


def _pool(rows: list[int], page: int, most: int, cap: int = 10_000) -> PagePool:
    return PagePool(
        SegmentPool(HostDriver(), SEGMENT, Cap(fixed_bytes=cap * SEGMENT), quiet_s=8, clock=Clock()),
        rows,
        page,
        most,
    )


def test_pages_come_lowest_first_and_follow_their_predecessor() -> None:
    pool = _pool([64], 1, 2000)
    first = pool.alloc(300)
    assert first is not None
    assert first.tolist() == list(range(300))
    assert pool.alloc(5, after=299).tolist() == list(range(300, 305))  # type: ignore[union-attr]
    pool.free(np.array([3, 4, 9, 250, 251, 252], np.int32))
    assert pool.alloc(2, after=249).tolist() == [250, 251]  # type: ignore[union-attr]
    assert pool.alloc(3, after=251).tolist() == [252, 3, 4]  # type: ignore[union-attr]
    assert pool.alloc(2).tolist() == [9, 305]  # type: ignore[union-attr]
    assert pool.alloc(0).tolist() == []  # type: ignore[union-attr]
    pool.check_integrity()


@pytest.mark.parametrize("hole", [256, 250])
def test_what_follows_a_page_ends_where_memory_does(hole: int) -> None:
    pool = _pool([64], 1, 3 * 256)  # 256 pages a segment
    pages = pool.alloc(3 * 256)
    assert pages is not None
    pool.free(np.arange(hole, 512, dtype=np.int32))  # all of segment 1
    pool._page_refs.unback(1)
    free = list(range(hole, 256))
    pool.free(np.array([7, 8, 9], np.int32))
    assert pool.alloc(3 + len(free), after=hole - 1).tolist() == [*free, 7, 8, 9]  # type: ignore[union-attr]
    assert pool._page_refs.free_pages == 0


def test_it_grows_by_segments_to_its_cap_and_not_beyond() -> None:
    pool = _pool([64, 64], 4, 1000, cap=10)  # 64 pages a segment, in two layers
    assert pool.pages_per_segment == 64
    assert pool.mapped_pages == 64
    assert pool.available() == 5 * 64
    assert pool.alloc(5 * 64 + 1) is None
    assert pool.mapped_pages == 64
    assert len(pool.alloc(5 * 64)) == 5 * 64  # type: ignore[arg-type]
    assert pool.mapped_bytes == 10 * SEGMENT
    assert pool.alloc(1) is None
    assert pool.available() == 0


def test_a_pool_does_not_give_up_its_own_empty_segments_to_grow() -> None:
    pool = _pool([64, 64], 4, 1000, cap=10)
    held = pool.alloc(4 * 64)
    assert held is not None
    pool.free(held[2 * 64 : 4 * 64])  # two segments are empty and one more can be had
    assert pool.alloc(3 * 64 + 1) is None
    pool.check_integrity()
    more = pool.alloc(3 * 64)
    assert more is not None
    assert len(np.unique(np.concatenate((held[: 2 * 64], more)))) == 5 * 64
    pool.check_integrity()


def test_a_pool_never_gives_more_than_its_address_space() -> None:
    pool = _pool([64], 4, 100)
    assert pool.available() == 100
    assert pool.alloc(101) is None
    assert len(pool.alloc(100)) == 100  # type: ignore[arg-type]
    pool.check_integrity()


def test_sharing_counts_and_writing_needs_the_only_reference() -> None:
    pool = _pool([64], 1, 500)
    pages = pool.alloc(100)
    assert pages is not None
    pool.share(pages[10:20])
    pool.share(np.array([12, 12, 15], np.int32))
    assert pool.references(np.array([9, 10, 12, 15, 499])).tolist() == [1, 2, 4, 3, 0]
    assert pool.writable(9)
    assert not pool.writable(10)
    assert pool.free(pages) == 90
    assert pool.writable(10)
    assert pool.free(np.array([12, 15, 12, 15, 10, 12], np.int32)) == 3
    assert pool.used == 7
    pool.check_integrity()


def test_a_shared_page_is_copied_before_it_is_written() -> None:
    pool = _pool([64, 32], 4, 500)
    pages = pool.alloc(2)
    assert pages is not None
    page = int(pages[1])
    for layer in (0, 1):
        pool.layer_numpy(layer)[page * 4 : page * 4 + 4] = 7 + layer
    assert pool.own(page) == page
    pool.share(pages)
    copy = pool.own(page)
    assert copy == 2
    for layer in (0, 1):
        pool.layer_numpy(layer)[page * 4 : page * 4 + 4] = 0
        assert (pool.layer_numpy(layer)[copy * 4 : copy * 4 + 4] == 7 + layer).all()
    assert pool.references(np.array([page, copy])).tolist() == [1, 1]
    pool.check_integrity()


@pytest.mark.parametrize("pages", [[100], [-1], [0, 1, 2, 3, 500], [5, 5], [7, 6, 7], [99, 100, 101], [500]])
def test_freeing_what_is_not_in_use_is_refused_whole(pages: list[int]) -> None:
    pool = _pool([64], 1, 400)
    assert pool.alloc(100) is not None
    with pytest.raises(DriverError):
        pool.free(np.array(pages, np.int32))
    if pages not in ([5, 5], [7, 6, 7]):
        with pytest.raises(DriverError):
            pool.share(np.array(pages, np.int32))
    assert pool.used == 100
    assert pool.references(np.arange(100, dtype=np.int32)).tolist() == [1] * 100
    pool.check_integrity()


def test_a_page_can_be_shared_65535_times_and_not_once_more() -> None:
    pool = _pool([64], 1, 10)
    page = pool.alloc(1)
    assert page is not None
    pool.share(np.repeat(page, 65_534))
    assert pool.references(page).tolist() == [65_535]
    for more in (page, np.repeat(page, 3)):
        with pytest.raises(DriverError, match="shared"):
            pool.share(more)
    assert pool.free(np.repeat(page, 65_535)) == 1


def test_pressure_is_highest_where_a_page_is_the_last_of_its_segment() -> None:
    pool = _pool([64], 1, 4 * 256)
    pages = pool.alloc(4 * 256)
    assert pages is not None
    assert pool.pressure(pages).max() == 0
    pool.free(pages[257:512])  # one left in segment 1
    pool.free(pages[512:640])  # half of segment 2
    pool.free(pages[:200])
    assert pool.occupancy().tolist() == [56, 1, 128, 256]
    pressure = pool.pressure(np.array([255, 256, 700, 1000], np.int32))
    assert pressure[0] == 0  # the first segment always stays
    assert pressure[1] == 1
    assert 0.4 < pressure[2] < 0.6
    assert pressure[3] == 0


@pytest.mark.parametrize("rows", [[], [0], [64, -1]])
def test_a_pool_of_nothing_is_refused(rows: list[int]) -> None:
    with pytest.raises(InputError):
        _pool(rows, 1, 10)


def test_a_pool_without_memory_for_its_first_segment_leaves_nothing() -> None:
    driver = HostDriver()
    segments = SegmentPool(driver, SEGMENT, Cap(fixed_bytes=2 * SEGMENT))
    with pytest.raises(NoRoomError):
        PagePool(segments, [64] * 3, 1, 100)
    assert (driver.mapped_bytes, driver.reserved_bytes) == (0, 0)
    assert segments.room() == 2
    driver.close()


@pytest.mark.parametrize("most", [*range(1, 70), 127, 1000, 1021, 1024, 1536, 4093, 100_003, 262_144])
def test_a_segment_is_whole_blocks_and_wastes_little(most: int) -> None:
    pages, block = fit_segment(most)
    assert pages % block == 0
    assert most - pages < 64
    assert block <= 1024
    assert block >= min(64, most) or most < 64


def test_a_table_row_costs_what_it_holds() -> None:
    segments = SegmentPool(HostDriver(), SEGMENT, quiet_s=8, clock=Clock())
    table = RequestTable(segments, 2048, 10_000_000)
    row = table.alloc_row()
    assert row == 0
    assert table.mapped_bytes == 0
    table.append(row, np.arange(5000, dtype=np.int32))
    assert table.mapped_bytes == 2 * SEGMENT
    table.append(row, np.arange(5000, 5003, dtype=np.int32))
    assert table.row(row).tolist() == list(range(5003))
    with pytest.raises(DriverError):
        table.write(row, 5004, np.zeros(1, np.int32))
    with pytest.raises(DriverError):
        table.append(1, np.zeros(1, np.int32))
    table.truncate(row, 10)
    assert table.length(row) == 10
    table.free_row(row)
    with pytest.raises(DriverError):
        table.length(row)
    segments.clock.now = 5.0  # type: ignore[attr-defined]
    table.tick()
    assert table.mapped_bytes == SEGMENT  # the first, since the table was looked at
    table.check_integrity()
    segments.driver.close()


def test_an_hour_of_requests_leaves_no_fragments() -> None:
    clock, driver = Clock(), HostDriver()
    segments = SegmentPool(driver, SEGMENT, quiet_s=10, clock=clock)
    pool = PagePool(segments, [64, 64], 1, 256 * 256)
    base = driver.physical_bytes()
    random = np.random.default_rng(11)
    live: list[tuple[float, np.ndarray]] = []
    waste = []
    while clock.now < 3600:
        clock.now += float(random.exponential(2.5))
        for ended in [one for one in live if one[0] <= clock.now]:
            pool.free(ended[1])
        live = [one for one in live if one[0] > clock.now]
        pages = pool.alloc(int(random.integers(1, 2000)))
        assert pages is not None
        live.append((clock.now + float(random.exponential(30)), pages))
        pool.tick()
        segments.tick()
        if len(live) > 5:
            waste.append(driver.physical_bytes() / (pool.used * 128))
    assert np.median(waste) < 1.5
    assert len(waste) > 1000
    pool.check_integrity()
    for _, pages in live:
        pool.free(pages)
    for _ in range(12):
        clock.now += 1
        pool.tick()
        segments.tick()
    assert driver.physical_bytes() == base
    pool.close()
    segments.close()
    assert driver.physical_bytes() == 0
    driver.close()


def test_a_run_of_ten_million_pages_is_a_view_and_free_knows_it_again() -> None:
    books = PageReferences(10_000_000, 10_000_000 // 64 * 64, 64)
    books.back(0)
    whole = books.take(books.free_pages)
    books.free(whole)
    again = books.take(len(whole))
    assert np.shares_memory(whole, again), "a run is a slice of one array of numbers, not a copy"
    assert len(again) == len(whole)
    assert not again.flags.writeable
    books.free(again)
    singles = [books.take(1) for _ in range(2000)]
    assert all(np.shares_memory(one, whole) for one in singles)
    for one in singles:
        books.free(one)
    books.check_integrity()
