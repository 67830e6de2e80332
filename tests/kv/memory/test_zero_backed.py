"""Tables of rows of which everything can be read: their own contents where they are held, zero elsewhere."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
import torch

from failing_driver import Clock
from fake_cuda import GRANULE, CUresult, FakeCuda
from farspan.errors import InputError
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.cuda import CudaDriver
from farspan.kv.memory.drivers.driver import DriverError, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.ranges import ZeroBackedRange
from farspan.kv.memory.segments import SegmentPool
from farspan.kv.memory.zero_backed_rows import ZeroBackedRows, table_segment_bytes

PAGE = 4096


class MapRefusingDriver(HostDriver):
    refuse = 0

    def _map(self, address: int, size: int, key: int) -> None:
        if self.refuse:
            self.refuse -= 1
            if not self.refuse:
                raise NoRoomError("injected")
        super()._map(address, size, key)


@pytest.fixture
def driver() -> Iterator[MapRefusingDriver]:
    driver = MapRefusingDriver()
    yield driver
    driver.check_integrity()
    driver.close()


def test_zeros_are_read_cost_nothing_and_give_way_only_when_taken_away(driver: HostDriver) -> None:
    address = driver.reserve(8 * PAGE)
    driver.map_zeros(address, 2 * PAGE, 3)
    view = driver.numpy(address, 6 * PAGE)
    assert not view.any()
    assert (driver.physical_bytes(), driver.mapped_bytes) == (0, 0)
    handle = driver.create(2 * PAGE)
    for at in (address, address + PAGE, address + 4 * PAGE):
        with pytest.raises(DriverError, match="mapped already"):
            driver.map(at, handle)
    with pytest.raises(DriverError, match="mapped already"):
        driver.map_zeros(address + 4 * PAGE, 2 * PAGE)
    with pytest.raises(DriverError, match="no 4096 bytes that read as zero"):
        driver.unmap_zeros(address, PAGE)
    driver.unmap_zeros(address + 2 * PAGE, 2 * PAGE)
    driver.map(address + 2 * PAGE, handle)
    view[2 * PAGE : 4 * PAGE] = 7
    assert driver.numpy(address, 6 * PAGE).sum() == 7 * 2 * PAGE
    driver.unmap(address + 2 * PAGE, 2 * PAGE)
    driver.map_zeros(address + 2 * PAGE, 2 * PAGE)
    assert not view.any()
    driver.destroy(handle)
    driver.release(address, 8 * PAGE)


def test_writing_where_only_zeros_are_faults(driver: HostDriver) -> None:
    address = driver.reserve(PAGE)
    driver.map_zeros(address, PAGE)
    view = driver.numpy(address, PAGE)
    child = os.fork()
    if not child:
        view[0] = 1
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 11


def test_a_range_whose_exchange_fails_reads_as_zero_again(driver: MapRefusingDriver) -> None:
    waits: list[int] = []
    pool = SegmentPool(driver, PAGE)
    one = ZeroBackedRange(pool, 8 * PAGE, lambda: waits.append(1))
    handles = pool.take(3)
    driver.refuse = 2
    with pytest.raises(NoRoomError):
        one.map_segments(2, handles)
    assert waits
    assert one.mapped_segments == 0
    assert not one.numpy().any()
    one.map_segments(2, handles)
    one.numpy()[2 * PAGE : 5 * PAGE] = 9
    with pytest.raises(DriverError, match="mapped already"):
        one.map_segments(4, pool.take(1))
    assert one.numpy().sum() == 9 * 3 * PAGE
    pool.give([one.unmap_segment(3)])
    assert one.numpy().sum() == 9 * 2 * PAGE
    pool.give([])
    one.map_segments(3, pool.take(1))  # the same memory, full of nines a moment ago
    assert one.numpy().sum() == 9 * 2 * PAGE
    one.close()


def test_a_table_far_larger_than_the_machine_costs_a_row(driver: HostDriver) -> None:
    rows, width = 2049, 10_000_004
    segment = table_segment_bytes(driver.granularity, rows * width * 4)
    assert rows * width * 4 / segment <= 4096
    table = ZeroBackedRows(SegmentPool(driver, segment), rows, width * 4, lambda: None)
    view = table.tensor(torch.int32)
    assert view.shape == (rows, width)
    table.hold([(5, 1000 * 4)])
    view[5, :1000] = torch.arange(1000, dtype=torch.int32)
    assert view[5, 990:1010].tolist() == [*range(990, 1000), *[0] * 10]
    assert int(view[2000, -100:].sum()) == 0
    assert table.mapped_bytes == segment
    with pytest.raises(InputError, match="bytes of row 2049"):
        table.hold([(2049, 4)])
    table.close()


@pytest.mark.parametrize("seed", range(6))
def test_random_rows_keep_their_contents_and_everything_else_reads_as_zero(seed: int) -> None:
    random, clock, driver = Random(seed), Clock(), MapRefusingDriver()
    rows, width = 9, random.choice([2500, 3000, 5000])
    pool = SegmentPool(driver, PAGE, Cap(fixed_bytes=16 * PAGE), quiet_s=8.0, clock=clock, reread_s=0.0)
    table = ZeroBackedRows(pool, rows, width * 4, lambda: None)
    view = table.tensor(torch.int32)
    held: dict[int, int] = {}
    refused = 0
    for step in range(400):
        driver.refuse = random.choice([0, 0, 0, 1, 2])
        sizes = {random.randrange(rows): random.randint(1, width) for _ in range(random.randint(1, 2))}
        if random.random() < 0.5:
            before = dict(table._held)
            try:
                table.hold([(row, size * 4) for row, size in sizes.items()])
            except NoRoomError:
                refused += 1
                assert table._held == before
            else:
                for row, size in sizes.items():
                    view[row, :size] = torch.arange(size, dtype=torch.int32) + 1000 * row + step
                    held[row] = max(held.get(row, 0), size)
        elif held:
            row = random.choice(sorted(held))
            view[row, : held.pop(row)] = 0
            table.release(row)
        clock.now += random.choice([0.0, 1.0, 9.0])
        driver.refuse = 0
        table.tick()
        table.check_integrity()
        driver.check_integrity()
        copy = view.numpy()
        for row in range(rows):
            assert not copy[row, held.get(row, 0) :].any()
            assert row not in held or copy[row, 0] != 0 or row == 0
    assert refused
    for row in held:
        table.release(row)
    clock.now += 20.0
    table.tick()
    assert table.mapped_bytes == 0
    table.close()
    pool.close()
    assert driver.live_handles == 0
    driver.close()


def test_the_reserve_lets_one_row_in_when_the_device_is_full() -> None:
    driver = HostDriver(limit_bytes=8 * PAGE)
    table = ZeroBackedRows(SegmentPool(driver, PAGE, reread_s=0.0), 4, 3 * PAGE, lambda: None)
    neighbour = [driver.create(PAGE) for _ in range(4)]
    assert table.affordable() == 1
    table.hold([(1, 3 * PAGE)])
    assert table.affordable() == 0
    with pytest.raises(NoRoomError):
        table.hold([(2, 3 * PAGE)])
    assert table.held_rows == 1
    for handle in neighbour:
        driver.destroy(handle)
    assert table.affordable() >= 1
    table.hold([(2, 3 * PAGE)])
    table.close()
    driver.close()


@pytest.mark.parametrize("call", ["cuMemMap", "cuMemSetAccess", "cuMemsetD8", "cuMemCreate"])
def test_on_a_gpu_one_piece_of_memory_stands_behind_all_zeros(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake)
    driver = CudaDriver()
    address = driver.reserve(64 * GRANULE)
    fake.fail[call] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(NoRoomError):
        driver.map_zeros(address, 2 * GRANULE, 32)
    assert not fake.mappings
    driver.map_zeros(address, 2 * GRANULE, 32)
    assert driver.physical_bytes() == 2 * GRANULE
    assert fake.calls.count("cuMemMap") >= 33
    view = np.ctypeslib.as_array((ctypes.c_uint8 * (64 * GRANULE)).from_address(address))
    assert not view.any()
    handle = driver.create(2 * GRANULE)
    driver.unmap_zeros(address + 8 * GRANULE, 2 * GRANULE)
    driver.map(address + 8 * GRANULE, handle)
    view[8 * GRANULE : 10 * GRANULE] = 3
    assert view.sum() == 3 * 2 * GRANULE
    del view
    driver.close()
    fake.check_clean()
