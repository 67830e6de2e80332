"""Drivers, segments, pages and tables together, against a model of plain dicts, with contents re-checked at each step.

Every page carries a value derived from its owner, in every layer, and every table row its page ids; both are read back
through the memory itself after each step. Any driver call may be made to fail; then nothing may have changed.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from failing_driver import Clock, FailingDriver
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.driver import DriverError, NoRoomError
from farspan.kv.memory.elastic_tables import RequestTable
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool

SEGMENT = 1 << 14
QUIET = 8.0
# (row bytes of each layer, tokens of a page): even and uneven rows, rows above a segment, unequal layers
SHAPES = [((256, 256), 4), ((384, 96), 5), ((9000,), 3), ((1152, 1152, 1152), 1)]
MAX_PAGES = [200, 67, 11, 90]
ROWS, ROW_PAGES = 7, 3001


class ElasticMemory(RuleBasedStateMachine):
    """Two pools and a table that share segments under one cap."""

    @initialize(
        shapes=st.lists(st.integers(0, len(SHAPES) - 1), min_size=2, max_size=2),
        cap=st.integers(12, 40),
        late=st.lists(st.booleans(), min_size=2, max_size=2),
    )
    def start(self, shapes: list[int], cap: int, late: list[bool]) -> None:
        self.clock = Clock()
        self.driver = FailingDriver()
        self.segments = SegmentPool(
            self.driver,
            SEGMENT,
            Cap(fixed_bytes=cap * SEGMENT),
            quiet_s=QUIET,
            clock=self.clock,
            reread_s=0.0,
        )
        self.pools = [PagePool(self.segments, *SHAPES[shape], MAX_PAGES[shape]) for shape in shapes]
        self.late = late
        for one in (one for one, maps_late in zip(self.pools, late, strict=True) if maps_late):
            one.map_late()
        self.table = RequestTable(self.segments, ROWS, ROW_PAGES)
        self.baseline = self.driver.physical_bytes()
        self.owners: list[dict[int, int]] = [{}, {}]  # page -> the value it carries
        self.references: list[dict[int, int]] = [{}, {}]
        self.rows: dict[int, list[int]] = {}
        self.serial = 0

    # --- content ---

    def content(self, pool: int, page: int, layer: int) -> np.ndarray:
        one = self.pools[pool]
        rows = one.layer_numpy(layer)
        return rows[page * one.page_tokens : (page + 1) * one.page_tokens]

    def fill(self, pool: int, pages: np.ndarray) -> None:
        for page in pages.tolist():
            assert page not in self.references[pool], "a page in use was handed out"
            self.serial = self.serial % 250 + 1
            self.owners[pool][page] = self.serial
            self.references[pool][page] = 1
            for layer in range(len(self.pools[pool].row_bytes)):
                self.content(pool, page, layer)[:] = (self.serial + layer) % 251

    # --- rules ---

    pool_numbers = st.integers(0, 1)

    @rule(pool=pool_numbers, count=st.integers(0, 60), follow=st.booleans(), fail=st.integers(0, 12))
    def alloc(self, pool: int, count: int, follow: bool, fail: int) -> None:
        one, held = self.pools[pool], self.references[pool]
        after = max(held) if follow and held else None
        available = one.available()
        before = (one.used, one.mapped_pages, self.driver.mapped_bytes)
        self.driver.arm(fail)
        pages = one.alloc(count, after)
        failed = self.driver.failed
        self.driver.arm(0)
        if pages is None:
            assert count > available or failed, "what is available can be had"
            assert one.used == before[0]
            # Memory that was taken, and could not be mapped when it was to be handed out, is kept.
            assert one.mapped_pages == before[1] or (self.late[pool] and one.mapped_pages > before[1])
            if failed:  # surrendering to make room may stand; taking may not
                assert self.driver.mapped_bytes <= before[2] or self.late[pool]
                assert one.alloc(min(count, available)) is None or self._undo(pool)
            return
        assert count <= available, "no more than is available can be had"
        assert len(pages) == count
        assert pages.dtype == np.int32
        leading = 0
        if after is not None:
            while leading < count and pages[leading] == after + 1 + leading:
                leading += 1
        assert (np.diff(pages[leading:]) > 0).all()
        self.fill(pool, pages)

    def _undo(self, pool: int) -> bool:
        """Free again what the retry after a failure was given."""
        one = self.pools[pool]
        pages = np.flatnonzero(one.references(np.arange(one.max_pages, dtype=np.int32))).astype(np.int32)
        extra = np.setdiff1d(pages, np.array(sorted(self.references[pool]), np.int32))
        assert one.free(extra) == len(extra)
        return True

    @rule(pool=pool_numbers, count=st.integers(0, 80), fail=st.integers(0, 12))
    def secure(self, pool: int, count: int, fail: int) -> None:
        one = self.pools[pool]
        available = one.available()
        self.driver.arm(fail)
        free = one.secure(count)
        failed = self.driver.failed
        self.driver.arm(0)
        assert free == one.free_pages
        assert free >= min(count, available) or failed, "what is available can be secured"

    @rule(pool=pool_numbers)
    def keep_nothing(self, pool: int) -> None:
        self.pools[pool].keep(0)

    @rule(pool=pool_numbers, seed=st.integers(0, 2**31), share=st.floats(0.05, 1), shuffled=st.booleans())
    def free(self, pool: int, seed: int, share: float, shuffled: bool) -> None:
        held = self.references[pool]
        pages = np.array(sorted(held), np.int32)
        chosen = np.random.default_rng(seed)
        pages = pages[chosen.random(len(pages)) < share]
        if shuffled:
            pages = np.concatenate([pages, [page for page in pages if held[page] > 1]]).astype(np.int32)
            chosen.shuffle(pages)
        gone = 0
        for page in pages.tolist():
            held[page] -= 1
            if not held[page]:
                del held[page], self.owners[pool][page]
                gone += 1
        assert self.pools[pool].free(pages) == gone

    @rule(pool=pool_numbers, seed=st.integers(0, 2**31))
    def share(self, pool: int, seed: int) -> None:
        pages = np.array(sorted(self.references[pool]), np.int32)
        pages = np.random.default_rng(seed).choice(pages, len(pages)) if len(pages) else pages
        self.pools[pool].share(pages)
        for page in pages.tolist():
            self.references[pool][page] += 1

    @rule(pool=pool_numbers, page=st.integers(-2, 220), verb=st.sampled_from(["free", "share"]))
    def refuse(self, pool: int, page: int, verb: str) -> None:
        if page not in self.references[pool]:
            mine = list(self.references[pool])[:3]
            with pytest.raises(DriverError):
                getattr(self.pools[pool], verb)(np.array([*mine, page], np.int32))

    @rule(count=st.integers(1, 2500), row=st.integers(0, ROWS - 1), fail=st.integers(0, 5))
    def write_row(self, count: int, row: int, fail: int) -> None:
        if row not in self.rows:
            new = self.table.alloc_row()
            assert (new is None) == (len(self.rows) == ROWS)
            if new is None:
                return
            self.rows[new] = []
            row = new
        pages = np.arange(self.serial, self.serial + count, dtype=np.int32)
        self.serial += 1
        self.driver.arm(fail)
        try:
            self.table.append(row, pages)
        except NoRoomError:
            pass
        except DriverError:
            assert len(self.rows[row]) + count > ROW_PAGES
        else:
            self.rows[row] += pages.tolist()
        self.driver.arm(0)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), keep=st.floats(0, 1))
    def cut_row(self, data: st.DataObject, keep: float) -> None:
        row = data.draw(st.sampled_from(sorted(self.rows)))
        length = int(keep * len(self.rows[row]))
        self.table.truncate(row, length)
        del self.rows[row][length:]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def drop_row(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.rows)))
        self.table.free_row(row)
        del self.rows[row]

    @rule(passed=st.floats(0, 5), fail=st.integers(0, 8))
    def step(self, passed: float, fail: int) -> None:
        self.clock.now += passed
        self.driver.arm(fail, DriverError("injected"))
        try:
            self._tick()
        except DriverError:
            assert self.driver.failed
        self.driver.arm(0)  # and at the next step it works

    def _tick(self) -> None:
        for one in (*self.pools, self.table, self.segments):
            one.tick()

    @rule()
    def rest(self) -> None:
        for one in self.pools:
            one.keep(0)
        for _ in range(12):
            self.clock.now += QUIET / 8
            self._tick()
        held = sum(one.mapped_bytes for one in (*self.pools, self.table))
        assert self.driver.physical_bytes() == held, "nothing is idle after the quiet time"
        if not any(self.references) and not self.rows:
            assert held == self.baseline, "an empty cache costs what it did at the start"

    # --- invariants ---

    @invariant()
    def contents_are_whole(self) -> None:
        for number in range(2):
            for page, value in self.owners[number].items():
                for layer in range(len(self.pools[number].row_bytes)):
                    assert (self.content(number, page, layer) == (value + layer) % 251).all()
        if self.rows and any(self.rows.values()):
            view = self.table.numpy()
            for row, pages in self.rows.items():
                assert view[row, : len(pages)].tolist() == pages
                assert self.table.length(row) == len(pages)

    @invariant()
    def books_balance(self) -> None:
        for number, one in enumerate(self.pools):
            one.check_integrity()
            held = self.references[number]
            assert one.used == len(held)
            pages = np.array(sorted(held), np.int32)
            assert one.references(pages).tolist() == [held[page] for page in pages.tolist()]
            assert int(one.occupancy().sum()) == one.used
            assert ((one.pressure(pages) >= 0) & (one.pressure(pages) <= 1)).all()
        self.table.check_integrity()
        self.segments.check_integrity()
        self.driver.check_integrity()
        statistics = self.segments.statistics()
        assert (
            self.driver.physical_bytes() == self.driver.live_handles * SEGMENT == statistics.created * SEGMENT
        )
        unmapped = sum(len(one._backing._late) for one in self.pools)
        assert self.driver.mapped_bytes == (statistics.lent - unmapped) * SEGMENT

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        self.driver.arm(0)
        for one in (*self.pools, self.table, self.segments):
            one.close()
        assert self.driver.live_handles == 0
        assert self.driver.physical_bytes() == 0
        assert self.driver.reserved_bytes == 0
        self.driver.close()


TestElasticMemory = ElasticMemory.TestCase
TestElasticMemory.settings = settings(max_examples=30, stateful_step_count=25)
