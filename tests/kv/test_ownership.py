"""Who owns what: the pages of a hit while room is made for it, and the driver under several caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from farspan.kv.interface import SequenceKV, retentions
from farspan.kv.kv_options import KVOptions
from farspan.kv.kvcache import ElasticKVCache
from farspan.kv.memory.drivers.driver import Driver, DriverError, Handle, Memory, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver

HEADS, DIM, STEP = 1, 4, 40
GIB = 2**30


@pytest.fixture
def driver() -> Iterator[HostDriver]:
    driver = HostDriver()
    yield driver
    driver.close()


def new_cache(driver: HostDriver | None = None, **options: float) -> ElasticKVCache:
    return ElasticKVCache(
        layers=retentions((None, 64)),
        num_kv_heads=HEADS,
        head_dim=DIM,
        dtype=torch.float32,
        device=torch.device("cpu"),
        max_step_tokens=STEP,
        options=KVOptions(**{"capacity_gib": 24 * 4096 / GIB, "page_tokens": 4, **options}),
        driver=driver,
    )


def values(start: int, stop: int, layer: int) -> torch.Tensor:
    return (torch.arange(start, stop) + 1000.0 * (layer + 1))[:, None, None].expand(-1, HEADS, DIM)


def compute(sequence: SequenceKV, tokens: np.ndarray) -> None:
    while sequence.length < len(tokens):
        start = sequence.length
        stop = min(len(tokens), start + STEP)
        sequence.append(stop - start)
        for layer in range(2):
            sequence.write(layer, start, values(start, stop, layer), -values(start, stop, layer))
        sequence.computed(tokens[start:stop])


def check(sequence: SequenceKV) -> None:
    for layer, first in enumerate((0, sequence.length // 64 * 64)):
        if first < sequence.length:
            runs = list(sequence.runs(layer, first, sequence.length))
            assert torch.equal(torch.cat([run.key for run in runs]), values(first, sequence.length, layer))
            assert torch.equal(torch.cat([run.value for run in runs]), -values(first, sequence.length, layer))


@pytest.mark.parametrize("evicted", [0, 40, 200])
def test_a_hit_keeps_its_pages_while_room_is_made_for_the_rest_of_it(
    evicted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every page that is copied back costs all that may be evicted: also what the tree holds along the hit itself."""
    cache = new_cache(host_gib=1.0)
    tokens = np.arange(300, dtype=np.int32)
    for length in (100, 200, 300):
        sequence = cache.open(tokens[:length], length)
        assert sequence is not None
        compute(sequence, tokens[:length])
        sequence.close()
    prefixes = cache.prefixes
    assert prefixes is not None
    prefixes.evict(0, evicted // 4)
    take = cache.take_pages

    def take_after_evicting(kind: int, count: int, after: int | None = None) -> np.ndarray:
        while prefixes.evict(kind, 1):
            pass
        return take(kind, count, after)

    monkeypatch.setattr(cache, "take_pages", take_after_evicting)
    sequence = cache.open(tokens, 340)
    assert sequence is not None
    assert sequence.cached_tokens == 296
    check(sequence)
    cache.check_integrity()
    monkeypatch.undo()
    compute(sequence, np.concatenate((tokens, np.arange(40, dtype=np.int32))))
    check(sequence)
    sequence.close()
    cache.check_integrity()
    cache.reset_prefixes()
    assert cache.statistics().used_bytes == 0
    cache.close()


def test_without_room_for_what_is_on_the_host_an_idle_cache_opens_with_what_is_on_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody's end could be waited for: a request that fits must not wait for ever."""
    cache = new_cache(host_gib=1.0)
    tokens = np.arange(200, dtype=np.int32)
    first = cache.open(tokens, 200)
    assert first is not None
    compute(first, tokens)
    first.close()
    prefixes = cache.prefixes
    assert prefixes is not None
    prefixes.evict_all()
    assert cache.statistics().host_tokens == 200

    def refuse(kind: int, count: int, after: int | None = None) -> np.ndarray:
        raise NoRoomError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "take_pages", refuse)
        sequence = cache.open(tokens, 200)
    assert sequence is not None
    assert sequence.cached_tokens == 0
    compute(sequence, tokens)
    check(sequence)
    cache.check_integrity()
    sequence.close()
    again = cache.open(tokens, 200)
    assert again is not None
    assert again.cached_tokens == 196
    check(again)
    again.close()
    cache.close()


def test_closing_a_cache_leaves_the_drivers_other_caches_alone(driver: HostDriver) -> None:
    one, other = new_cache(driver), new_cache(driver)
    tokens = np.arange(90, dtype=np.int32)
    sequence = other.open(tokens, 90)
    assert sequence is not None
    compute(sequence, tokens)
    one.close()
    one.close()
    check(sequence)
    sequence.close()
    other.close()
    assert driver.physical_bytes() == 0
    assert (driver.live_handles, driver.mapped_bytes, driver.reserved_bytes) == (0, 0, 0)


def test_a_cache_closes_the_driver_it_made_itself() -> None:
    cache = new_cache()
    made = cache._driver
    cache.close()
    with pytest.raises(DriverError, match="the host driver is closed"):
        made.physical_bytes()
    assert cache.statistics().capacity_bytes == cache.statistics().mapped_bytes == 0


CALLS: dict[str, Callable[[Driver], object]] = {
    "reserve": lambda driver: driver.reserve(4096),
    "release": lambda driver: driver.release(4096, 4096),
    "create": lambda driver: driver.create(4096),
    "destroy": lambda driver: driver.destroy(Handle(4096, 0)),
    "map": lambda driver: driver.map(4096, Handle(4096, 0)),
    "unmap": lambda driver: driver.unmap(4096, 4096),
    "memory": lambda driver: driver.memory(),
    "physical_bytes": lambda driver: driver.physical_bytes(),
    "fence": lambda driver: driver.fence(),
    "tensor": lambda driver: driver.tensor(4096, 4096),
    "numpy": lambda driver: driver.numpy(4096, 4096),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_driver_refuses_every_call(call: str) -> None:
    driver = HostDriver()
    driver.close()
    driver.close()
    with pytest.raises(DriverError, match="driver is closed; close it after"):
        CALLS[call](driver)


def test_a_cache_whose_driver_was_closed_under_it_says_so_and_touches_nothing() -> None:
    driver = HostDriver()
    cache = new_cache(driver)
    tokens = np.arange(50, dtype=np.int32)
    sequence = cache.open(tokens, 90)
    assert sequence is not None
    compute(sequence, tokens)
    driver.close()
    for use in (
        lambda: list(sequence.runs(0, 0, 50)),
        lambda: sequence.write(0, 0, values(0, 4, 0), values(0, 4, 0)),
        lambda: sequence.append(8),
        lambda: cache.open(tokens, 50),
    ):
        with pytest.raises(DriverError, match="driver is closed"):
            use()


@pytest.mark.parametrize("fails_at", range(1, 12))
def test_a_cache_that_cannot_be_made_leaves_nothing_on_the_driver(fails_at: int) -> None:
    class Refusing(HostDriver):
        calls = 0

        def _count(self) -> None:
            self.calls += 1
            if self.calls == fails_at:
                raise NoRoomError("injected")

        def _reserve(self, size: int) -> int:
            self._count()
            return super()._reserve(size)

        def _create(self, size: int) -> int:
            self._count()
            return super()._create(size)

        def _map(self, address: int, size: int, key: int) -> None:
            self._count()
            super()._map(address, size, key)

        def _allow_access(self, address: int, size: int) -> None:
            self._count()

        def memory(self) -> Memory:
            self._count()
            return super().memory()

    driver = Refusing()
    try:
        cache = new_cache(driver)
    except NoRoomError:
        assert driver.calls == fails_at
    else:
        assert driver.calls < fails_at
        cache.close()
    assert (driver.live_handles, driver.mapped_bytes, driver.reserved_bytes) == (0, 0, 0)
    driver.close()
