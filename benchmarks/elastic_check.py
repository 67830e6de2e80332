"""The invariants of elastic memory on a real device: what the tests check with a fake GPU, with a real one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.driver import Driver, DriverError, NoRoomError
from farspan.kv.memory.elastic_tables import RequestTable
from farspan.kv.memory.pages import PagePool, Pages
from farspan.kv.memory.segments import SegmentPool


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class _Bed:
    """Two pools and a table over one budget, with a clock of its own."""

    def __init__(self, driver: Driver, cap: Cap) -> None:
        self.clock = _Clock()
        self.driver = driver
        self.size = max(driver.granularity, 1 << 16)
        self.segments = SegmentPool(driver, self.size, cap, quiet_s=8, clock=self.clock, reread_s=0.0)
        rows = [self.size // 64] * 2
        self.pools = [
            PagePool(self.segments, rows, 4, 4096),
            PagePool(self.segments, [self.size // 50], 3, 999),
        ]
        self.table = RequestTable(self.segments, 2048, 1_000_000)
        self.base = driver.physical_bytes()

    @property
    def all(self) -> tuple[PagePool | RequestTable | SegmentPool, ...]:
        return (*self.pools, self.table, self.segments)

    def rest(self) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        for _ in range(16):
            self.clock.now += 1
            for one in self.all:
                one.tick()

    def close(self) -> None:
        for one in self.all:
            one.check_integrity()
            one.close()
        assert self.driver.live_handles == 0
        assert self.driver.physical_bytes() == 0
        assert self.driver.reserved_bytes == 0
        self.driver.close()


def _fill(pool: PagePool, pages: Pages, value: int) -> None:
    slots = _slots(pool, pages)
    for layer in range(len(pool.row_bytes)):
        pool.layer(layer)[slots] = (value + layer) % 256


def _holds(pool: PagePool, pages: Pages, value: int) -> bool:
    slots = _slots(pool, pages)
    return all(
        bool((pool.layer(layer)[slots] == (value + layer) % 256).all())
        for layer in range(len(pool.row_bytes))
    )


def _slots(pool: PagePool, pages: Pages) -> torch.Tensor:
    slots = (np.array(pages, np.int64)[:, None] * pool.page_tokens + np.arange(pool.page_tokens)).reshape(-1)
    return torch.from_numpy(slots).to(pool.layer(0).device)


def _contents(driver: Driver, _device: torch.device) -> None:
    """A hundred rounds of allocating, sharing, freeing and waiting; every page is read back in every round."""
    bed = _Bed(driver, Cap(fixed_bytes=200 * max(driver.granularity, 1 << 16)))
    random = np.random.default_rng(3)
    live: list[tuple[int, Pages, int]] = []
    for step in range(100):
        number = int(random.integers(2))
        pages = bed.pools[number].alloc(int(random.integers(1, 200)), None)
        if pages is not None:
            _fill(bed.pools[number], pages, step)
            live.append((number, pages, step))
        assert all(_holds(bed.pools[which], held, value) for which, held, value in live)
        for _ in range(int(random.integers(0, 3))):
            if live:
                which, held, _ = live.pop(int(random.integers(len(live))))
                bed.pools[which].free(held)
        bed.clock.now += float(random.random() * 3)
        for one in bed.all:
            one.tick()
        for one in (*bed.all, driver):
            one.check_integrity()
    for which, held, _ in live:
        bed.pools[which].free(held)
    bed.rest()
    assert driver.physical_bytes() == bed.base
    bed.close()


def _addresses_stay(driver: Driver, _device: torch.device) -> None:
    """The address of a page is the same after everything around it went away and came back."""
    bed = _Bed(driver, Cap())
    pool = bed.pools[0]
    pages = pool.alloc(4000)
    assert pages is not None
    keep = pages[-3:].copy()
    _fill(pool, keep, 77)
    where = pool.layer(0)[int(keep[0]) * pool.page_tokens].data_ptr()
    pool.free(pages[:-3])
    bed.rest()
    assert pool.mapped_pages < 4000 // 2
    assert _holds(pool, keep, 77)
    again = pool.alloc(3900)
    assert again is not None
    assert pool.layer(0)[int(keep[0]) * pool.page_tokens].data_ptr() == where
    assert _holds(pool, keep, 77)
    bed.close()


def _memory_moves(driver: Driver, device: torch.device) -> None:
    """What one pool has emptied another gets at once, without new memory."""
    bed = _Bed(driver, Cap(fixed_bytes=60 * max(driver.granularity, 1 << 16)))
    first, second = bed.pools
    pages = first.alloc(first.available())
    assert pages is not None
    before = second.available()
    first.free(pages)
    first.tick()
    if device.type == "cuda":
        torch.cuda.synchronize()
    created = bed.segments.statistics().ever_created
    assert second.available() > before
    got = second.alloc(second.available())
    assert got is not None
    _fill(second, got, 5)
    assert _holds(second, got, 5)
    assert bed.segments.statistics().ever_created - created <= 1
    bed.close()


def _a_neighbour_is_no_crash(driver: Driver, device: torch.device) -> None:
    """When somebody else takes the memory, growth answers that there is no room, and works again afterwards."""
    bed = _Bed(driver, Cap(headroom_bytes=0 if device.type == "cuda" else 1 << 30))
    room = driver.memory().free
    if device.type == "cuda":
        neighbour = torch.empty(max(1, room - 64 * bed.size), dtype=torch.uint8, device=device)
        assert bed.pools[0].alloc(4096) is None
        some = bed.pools[0].alloc(8)
        assert some is not None
        _fill(bed.pools[0], some, 1)
        assert _holds(bed.pools[0], some, 1)
        del neighbour
        torch.cuda.empty_cache()
        pages = bed.pools[0].alloc(4000)
        assert pages is not None
        _fill(bed.pools[0], pages, 2)
        assert _holds(bed.pools[0], some, 1)
    else:
        try:
            driver.create(room // driver.granularity * driver.granularity + (64 << 30))
        except NoRoomError:
            pass
        else:
            raise AssertionError("more than the machine has was given out")
    bed.close()


def _mistakes_are_refused(driver: Driver, _device: torch.device) -> None:
    """Mapping over a mapped page, unmapping a part, destroying what is mapped: refused, and nothing changes."""
    size = max(driver.granularity, 1 << 16)
    base = driver.reserve(8 * size)
    handle, other = driver.create(2 * size), driver.create(size)
    driver.map(base, handle)
    view = driver.tensor(base, 8 * size)
    view[: 2 * size] = 9
    for mistake in (
        lambda: driver.map(base + size, other),
        lambda: driver.unmap(base, size),
        lambda: driver.destroy(handle),
        lambda: driver.release(base, 8 * size),
        lambda: driver.create(size + 1),
    ):
        try:
            mistake()
        except DriverError:
            continue
        raise AssertionError("a mistake was let through")
    assert bool((view[: 2 * size] == 9).all())
    driver.close()
    assert driver.live_handles == 0


def _fences_wait(driver: Driver, device: torch.device) -> None:
    """A fence behind queued work is not done before it, and is done after it."""
    if device.type == "cuda":
        work = torch.randn(8192, 8192, device=device)
        for _ in range(20):
            work = work @ work * 1e-3
        fence = driver.fence()
        early = fence.done()
        torch.cuda.synchronize()
        assert not early, "the work was over before the fence was asked"
    else:
        fence = driver.fence()
    assert fence.done()
    driver.close()


def _tables(driver: Driver, _device: torch.device) -> None:
    """Rows are backed as written; all of it goes back."""
    bed = _Bed(driver, Cap())
    table = bed.table
    assert table.mapped_bytes == 0
    rows = [table.alloc_row() for _ in range(3)]
    for row in rows:
        assert row is not None
        table.append(row, np.arange(50_000, dtype=np.int32) + row)
    for row in rows:
        assert row is not None
        assert table.row(row).tolist() == list(range(row, row + 50_000))
    pages = bed.pools[0].alloc(2000)
    assert pages is not None
    _fill(bed.pools[0], pages, 3)
    for row in rows:
        assert row is not None
        table.free_row(row)
    bed.pools[0].free(pages)
    assert bed.segments.statistics().ever_created > 0
    bed.rest()
    kept = table.mapped_bytes  # the first segment, once the table was looked at
    assert kept <= bed.size
    assert driver.physical_bytes() == bed.base + kept
    bed.close()


def check(new_driver: Callable[[], Driver], device: torch.device) -> bool:
    """Run every check with a driver of its own; print a line each; return whether all held."""
    good = True
    free = None
    for one in (
        _mistakes_are_refused,
        _fences_wait,
        _contents,
        _addresses_stay,
        _memory_moves,
        _tables,
        _a_neighbour_is_no_crash,
    ):
        try:
            one(new_driver(), device)
        except AssertionError as error:
            good = False
            print(f"FAILED {one.__name__[1:]}: {error}", flush=True)
        else:
            print(f"ok     {one.__name__[1:]}: {(one.__doc__ or '').strip()}", flush=True)
    if device.type == "cuda":  # nothing leaked: the device has what it had after the first round
        torch.cuda.empty_cache()
        for _ in range(2):
            driver = new_driver()
            _contents(driver, device)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            now = torch.cuda.mem_get_info()[0]
            if free is not None and abs(now - free) > 4 << 20:
                good = False
                print(f"FAILED leak: {free - now} bytes less are free after another round", flush=True)
            free = now
        print("ok     leak: free memory is the same after each round", flush=True) if good else None
    return good
