"""A cache with an initial size, or a fixed one: taken at the start, kept when idle, grown beyond, or refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from failing_driver import Clock as PoolClock
from farspan.errors import InputError
from farspan.kv.interface import retentions
from farspan.kv.kv_options import KVOptions
from farspan.kv.kvcache import ElasticKVCache
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.driver import Memory, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.segments import SegmentPool
from kv_machine import MIB, STEP, Clock, new_cache

SEGMENT = 1 << 14
TOKENS = 400_000


@pytest.fixture
def driver() -> Iterator[HostDriver]:
    with_memory = HostDriver()
    yield with_memory
    with_memory.close()


def use(cache: ElasticKVCache, tokens: int) -> None:
    """Go through a request of so many tokens, and close it."""
    ids = np.arange(tokens, dtype=np.int32)
    sequence = cache.open(ids, tokens)
    assert sequence is not None
    while sequence.length < tokens:
        count = min(STEP * 500, tokens - sequence.length)
        sequence.append(count)
        sequence.computed(ids[sequence.length - count : sequence.length])
    sequence.close()


def settle(cache: ElasticKVCache, clock: Clock) -> None:
    """Let the quiet time pass, and whatever goes back go."""
    for _ in range(8):
        clock.now += 3.0
        cache.tick()


def options(**changes: object) -> KVOptions:
    return KVOptions(segment_mib=1, quiet_s=5.0, keep_prefixes_s=2.0, **{"capacity_gib": 0.25, **changes})


def test_the_initial_size_is_taken_at_the_start_and_kept_and_the_rest_goes_back(driver: HostDriver) -> None:
    clock = Clock()
    cache = new_cache(retentions((None,)), options(initial_gib=8 / 1024), clock, driver)
    assert driver.physical_bytes() == 8 * MIB
    assert cache.statistics().mapped_bytes == 8 * MIB
    settle(cache, clock)
    assert driver.physical_bytes() == 8 * MIB, "kept though nobody used it"
    assert cache.tick() is None, "an idle engine sleeps: there is nothing to give back"
    created = cache.statistics().segments_created
    use(cache, 8 * MIB // 32 // 2)
    assert cache.statistics().segments_created == created, "half of it is used without the device being asked"
    use(cache, TOKENS)
    assert driver.physical_bytes() > 12 * MIB
    settle(cache, clock)
    assert driver.physical_bytes() == 8 * MIB
    cache.check_integrity()
    cache.close()
    assert driver.physical_bytes() == 0


def test_it_may_be_said_in_tokens(driver: HostDriver) -> None:
    clock = Clock()
    cache = new_cache(retentions((None, 64)), options(initial_tokens=TOKENS), clock, driver)
    held, created = driver.physical_bytes(), cache.statistics().segments_created
    assert held >= TOKENS * 32
    use(cache, TOKENS)
    assert cache.statistics().segments_created == created, (
        "one request of that length asks the device for nothing"
    )
    settle(cache, clock)
    assert driver.physical_bytes() == held
    cache.close()


def test_a_fixed_cache_never_grows_nor_shrinks(driver: HostDriver) -> None:
    clock = Clock()
    cache = new_cache(retentions((None,)), options(capacity_gib=0.0201, initial_gib=0.0201), clock, driver)
    assert driver.physical_bytes() == 20 * MIB, "the whole segments of 20.6 MiB"
    for _ in range(2):
        use(cache, TOKENS)
        assert driver.physical_bytes() == 20 * MIB
        settle(cache, clock)
        assert driver.physical_bytes() == 20 * MIB
    assert cache.statistics().segments_created == 20
    cache.close()


def test_what_cannot_be_is_refused(driver: HostDriver) -> None:
    with pytest.raises(InputError, match=r"8 GiB, is above the most .* 0.25 GiB; lower --kv-initial"):
        options(initial_gib=8.0)
    with pytest.raises(InputError, match="negative"):
        options(initial_tokens=-1)
    with pytest.raises(InputError, match=r"the initial size, .* has no room"):
        new_cache(retentions((None,)), options(initial_tokens=100_000_000), Clock(), driver)
    assert driver.physical_bytes() == 0


def test_a_pool_keeps_what_it_was_told_to_until_its_cap_comes_below() -> None:
    clock, neighbour = PoolClock(), [0]

    class Shared(HostDriver):
        def memory(self) -> Memory:
            return Memory(20 * SEGMENT - neighbour[0] - self.physical_bytes(), 20 * SEGMENT)

    driver = Shared()
    pool = SegmentPool(driver, SEGMENT, Cap(share=0.8), quiet_s=8, clock=clock, reread_s=0)
    used = pool.take(2)
    pool.keep(6)
    assert (driver.live_handles, pool.kept) == (6, 6)
    more = pool.take(9)
    pool.give(used)
    pool.give(more)
    clock.now += 100
    pool.tick()
    assert driver.live_handles == 6
    neighbour[0] = 15 * SEGMENT
    pool.tick()
    assert driver.live_handles == 4, "0.8 of the 5 there are: a neighbour's need is stronger"
    with pytest.raises(NoRoomError):
        pool.keep(6)
    pool.check_integrity()
    pool.close()
    assert driver.live_handles == 0
    driver.close()


def test_it_is_told_as_it_was_given() -> None:
    told = [(one.initial_text, one.is_fixed) for one in (
        options(), options(initial_gib=0.125), options(initial_tokens=1_000_000), options(initial_gib=0.25),
    )]  # fmt: skip
    assert told == [("", False), ("0.125GiB", False), ("1M", False), ("", True)]
