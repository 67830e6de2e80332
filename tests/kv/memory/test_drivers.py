"""Address space and physical memory: the rules drivers keep, faults after unmapping, exact bytes, nothing leaked."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from failing_driver import FailingDriver
from fake_cuda import GRANULE, CUresult, FakeCuda
from farspan.kv.memory.drivers.cuda import CudaDriver
from farspan.kv.memory.drivers.driver import Driver, DriverError, Handle, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver, _host_memory


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake)
    return fake


@pytest.fixture(params=["host", "cuda"])
def driver(request: pytest.FixtureRequest, fake: FakeCuda) -> Iterator[Driver]:
    driver = HostDriver(alignment=GRANULE) if request.param == "host" else _cuda()
    yield driver
    driver.close()
    fake.check_clean()


def _cuda() -> CudaDriver:
    return CudaDriver(streams=lambda: (0,))


def _bytes(address: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def test_contents_follow_the_memory_not_the_address(driver: Driver) -> None:
    base = driver.reserve(1024 * GRANULE)
    first, second = driver.create(GRANULE), driver.create(GRANULE)
    driver.map_run(base, (first, second))
    _bytes(base, GRANULE)[:] = 1
    _bytes(base + GRANULE, GRANULE)[:] = 2
    assert driver.unmap(base, GRANULE) is first
    driver.map(base + 1000 * GRANULE, first)
    assert (_bytes(base + 1000 * GRANULE, GRANULE) == 1).all()
    assert (_bytes(base + GRANULE, GRANULE) == 2).all()
    assert driver.physical_bytes() == 2 * GRANULE
    assert driver.mapped_bytes == 2 * GRANULE
    driver.check_integrity()


def test_physical_bytes_are_exact_through_create_and_destroy(driver: Driver) -> None:
    handles = [driver.create(GRANULE * (1 + i % 3)) for i in range(12)]
    total = sum(handle.size for handle in handles)
    assert driver.physical_bytes() == total
    for handle in handles[::2]:
        driver.destroy(handle)
        total -= handle.size
        assert driver.physical_bytes() == total
    again = driver.create(GRANULE)
    assert driver.physical_bytes() == total + GRANULE
    assert again.alive


def _over_a_mapped_page(driver: Driver, base: int) -> None:
    driver.map(base + GRANULE, driver.create(GRANULE))


def _over_the_end_of_a_mapped_run(driver: Driver, base: int) -> None:
    driver.map(base, driver.create(2 * GRANULE))


def _past_the_range(driver: Driver, base: int) -> None:
    driver.map(base + 8 * GRANULE, driver.create(2 * GRANULE))


def _outside_any_range(driver: Driver, base: int) -> None:
    driver.map(base - GRANULE, driver.create(GRANULE))


def _unaligned_address(driver: Driver, base: int) -> None:
    driver.map(base + 4 * GRANULE + 4096, driver.create(GRANULE))


def _unaligned_size(driver: Driver, base: int) -> None:
    driver.create(GRANULE + 1)


def _part_of_a_mapping(driver: Driver, base: int) -> None:
    driver.map(base + 4 * GRANULE, driver.create(2 * GRANULE))
    driver.unmap(base + 4 * GRANULE, GRANULE)


def _unmap_nothing(driver: Driver, base: int) -> None:
    driver.unmap(base + 4 * GRANULE, GRANULE)


def _release_while_mapped(driver: Driver, base: int) -> None:
    driver.release(base, 9 * GRANULE)


def _release_another_size(driver: Driver, base: int) -> None:
    driver.release(base, GRANULE)


def _reserve_nothing(driver: Driver, base: int) -> None:
    driver.reserve(0)


def _map_twice(driver: Driver, base: int) -> None:
    handle = driver.create(GRANULE)
    driver.map(base + 5 * GRANULE, handle)
    driver.map(base + 6 * GRANULE, handle)


def _destroy_while_mapped(driver: Driver, base: int) -> None:
    handle = driver.create(GRANULE)
    driver.map(base + 5 * GRANULE, handle)
    driver.destroy(handle)


def _destroy_twice(driver: Driver, base: int) -> None:
    handle = driver.create(GRANULE)
    driver.destroy(handle)
    driver.destroy(handle)


def _map_destroyed(driver: Driver, base: int) -> None:
    handle = driver.create(GRANULE)
    driver.destroy(handle)
    driver.map(base + 5 * GRANULE, handle)


@pytest.mark.parametrize(
    "mistake",
    [
        _over_a_mapped_page,
        _over_the_end_of_a_mapped_run,
        _past_the_range,
        _outside_any_range,
        _unaligned_address,
        _unaligned_size,
        _part_of_a_mapping,
        _unmap_nothing,
        _release_while_mapped,
        _release_another_size,
        _reserve_nothing,
        _map_twice,
        _destroy_while_mapped,
        _destroy_twice,
        _map_destroyed,
    ],
)
def test_mistakes_are_refused_and_change_nothing(
    driver: Driver, mistake: Callable[[Driver, int], None]
) -> None:
    base = driver.reserve(9 * GRANULE)
    driver.map(base + GRANULE, driver.create(GRANULE))
    _bytes(base + GRANULE, GRANULE)[:] = 9
    with pytest.raises(DriverError):
        mistake(driver, base)
    driver.check_integrity()
    assert (_bytes(base + GRANULE, GRANULE) == 9).all()


@pytest.mark.parametrize("after", ["reserve", "unmap", "release"])
def test_touching_memory_that_is_not_backed_faults(after: str) -> None:
    script = f"""
import ctypes
from farspan.kv.memory.drivers.host import HostDriver
driver = HostDriver()
base = driver.reserve(1 << 30)
view = driver.numpy(base, 1 << 30)
if {after!r} != "reserve":
    driver.map(base, driver.create(1 << 16))
    view[:1 << 16] = 3
    print(int(view[100]), flush=True)
    driver.unmap(base, 1 << 16)
if {after!r} == "release":
    driver.release(base, 1 << 30)
print(int(view[100]), flush=True)
"""
    source = Path(__file__).parents[3] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGSEGV
    assert done.stdout.split() == ([] if after == "reserve" else ["3"])


def test_closing_gives_back_descriptors_addresses_and_memory() -> None:
    def footprint() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count("farspan-kv")  # noqa: PTH208

    before = footprint()
    for _ in range(3):
        driver = HostDriver()
        base = driver.reserve(1 << 40)
        driver.map_run(base, [driver.create(1 << 16) for _ in range(5)])
        spare = driver.create(1 << 16)
        assert f"{base:x}-" in Path("/proc/self/maps").read_text()
        assert footprint() > before
        driver.close()
        driver.close()
        assert not spare.alive
        assert f"{base:x}-" not in Path("/proc/self/maps").read_text()
        assert footprint() == before


def test_a_limited_host_has_no_more_room_than_its_limit() -> None:
    driver = HostDriver(limit_bytes=3 << 16)
    handles = [driver.create(1 << 16) for _ in range(3)]
    with pytest.raises(NoRoomError):
        driver.create(1 << 16)
    assert driver.memory().free == 0
    driver.destroy(handles.pop())
    assert driver.memory().free == 1 << 16
    assert driver.create(1 << 16).alive
    driver.close()


def test_the_hosts_memory_is_within_every_cgroup_above_it(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:  800 kB\n")
    assert _host_memory(proc, groups).free == 800 * 1024
    (proc / "self" / "cgroup").write_text("0::/outer/inner\n")
    (groups / "outer" / "inner").mkdir(parents=True)
    (groups / "outer" / "inner" / "memory.max").write_text("max\n")
    (groups / "outer" / "inner" / "memory.current").write_text("5\n")
    (groups / "outer" / "memory.max").write_text("500000\n")
    (groups / "outer" / "memory.current").write_text("100000\n")
    memory = _host_memory(proc, groups)
    assert (memory.free, memory.total) == (400_000, 500_000)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_failed_map_run_leaves_nothing_mapped_and_can_be_tried_again(call: int) -> None:
    driver = FailingDriver()
    base = driver.reserve(1 << 20)
    handles = [driver.create(1 << 16) for _ in range(3)]
    driver.arm(call)
    with pytest.raises(NoRoomError):
        driver.map_run(base, handles)
    assert driver.mapped_bytes == 0
    driver.check_integrity()
    driver.map_run(base, handles)
    assert driver.mapped_bytes == 3 << 16
    driver.close()


@pytest.mark.parametrize("name", ["cuMemCreate", "cuMemMap", "cuMemSetAccess", "cuMemAddressReserve"])
@pytest.mark.parametrize("code", [CUresult.CUDA_ERROR_OUT_OF_MEMORY, CUresult.CUDA_ERROR_INVALID_VALUE])
def test_cuda_refusals_become_two_errors_and_change_nothing(
    fake: FakeCuda, name: str, code: CUresult
) -> None:
    driver = _cuda()

    def use() -> None:
        base = driver.reserve(4 * GRANULE)
        driver.map(base, driver.create(GRANULE))

    fake.fail[name] = code
    error = NoRoomError if code == CUresult.CUDA_ERROR_OUT_OF_MEMORY else DriverError
    with pytest.raises(error, match=name) as raised:
        use()
    assert type(raised.value) is error
    assert not fake.mappings
    driver.check_integrity()
    use()
    driver.close()
    fake.check_clean()


def test_a_full_gpu_is_no_room_and_a_neighbour_is_seen(fake: FakeCuda) -> None:
    driver = _cuda()
    fake.neighbour = fake.total - GRANULE
    assert driver.memory().free == GRANULE
    driver.create(GRANULE)
    with pytest.raises(NoRoomError):
        driver.create(GRANULE)
    driver.close()
    fake.check_clean()


def test_a_cuda_fence_waits_for_what_was_queued_before_it_on_every_stream(fake: FakeCuda) -> None:
    driver = CudaDriver(streams=lambda: (7, 8))
    base = driver.reserve(GRANULE)
    driver.map(base, driver.create(GRANULE))
    fake.launch(base, GRANULE)
    fence = driver.fence()
    assert len(fake.events) == 2
    assert not fence.done()
    fake.finish()
    fake.launch(base, GRANULE)  # after the fence: it does not wait for this
    assert fence.done()
    assert fence.done()
    forgotten = driver.fence()
    del forgotten  # its events serve the next one
    driver.fence()
    assert len(fake.events) == 2
    fake.finish()
    driver.close()
    fake.check_clean()


def test_a_gpu_without_virtual_memory_is_refused(fake: FakeCuda) -> None:
    fake.supported = 0
    with pytest.raises(DriverError, match="no virtual memory management"):
        _cuda()


def test_one_set_access_serves_a_whole_run(fake: FakeCuda) -> None:
    driver = _cuda()
    base = driver.reserve(8 * GRANULE)
    driver.map_run(base, [driver.create(GRANULE) for _ in range(8)])
    assert fake.calls.count("cuMemSetAccess") == 1
    fake.launch(base, 8 * GRANULE)
    fake.finish()
    driver.close()
    fake.check_clean()


def test_one_context_serves_all_that_is_created_and_a_refusal_loses_none_of_it(fake: FakeCuda) -> None:
    driver = _cuda()
    fake.neighbour = fake.total - 3 * GRANULE
    fake.calls.clear()
    handles: list[Handle] = []
    with pytest.raises(NoRoomError):
        driver.create_into(handles, GRANULE, 5)
    assert fake.calls.count("cuMemCreate") == 4
    assert fake.calls.count("cuCtxPushCurrent") == fake.calls.count("cuCtxPopCurrent") == 1
    assert len(handles) == driver.live_handles == 3
    for handle in handles:
        driver.destroy(handle)
    driver.close()
    fake.check_clean()


def test_the_fake_has_only_what_the_real_bindings_have() -> None:
    real = pytest.importorskip("cuda.bindings.driver")
    for name in [name for name in vars(FakeCuda) if name.lower().startswith("cu")]:
        ours, theirs = getattr(FakeCuda, name), getattr(real, name)
        if hasattr(ours, "__members__"):
            for member, value in ours.__members__.items():
                assert int(getattr(theirs, member)) == int(value), member
