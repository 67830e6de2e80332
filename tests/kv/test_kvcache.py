"""The elastic KV cache under random operations, against what every position must hold.

The oracle is in the content: keys and values of a position are derived from all tokens up to it. Whatever is shared,
evicted, kept on the host, restored or moved to memory that another layer kind had, a sequence must read at each
position exactly what its own tokens imply.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from farspan.kv.interface import NoRoomError, SequenceKV, retentions
from farspan.kv.kv_options import KVOptions
from farspan.kv.memory.drivers.driver import Memory
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.pages import PagePool
from farspan.kv.tree.radix import RadixTree
from kv_machine import DIM, HEADS, MIB, STEP, CacheMachine, Clock, new_cache


class FullMachine(CacheMachine):
    """Full attention only, as in Llama 3."""

    layers = retentions((None, None))


class LocalMachine(CacheMachine):
    """No layer keeps everything: nothing can be shared."""

    layers = retentions((16, 16))


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=40, stateful_step_count=30)
TestFull = FullMachine.TestCase
TestFull.settings = settings(max_examples=25, stateful_step_count=30)
TestLocal = LocalMachine.TestCase
TestLocal.settings = settings(max_examples=10, stateful_step_count=25)


def compute_all(sequence: SequenceKV, tokens: NDArray[np.int32], layers: int) -> None:
    while sequence.length < len(tokens):
        start = sequence.length
        count = min(STEP, len(tokens) - start)
        sequence.append(count)
        for layer in range(layers):
            value = torch.full((count, HEADS, DIM), float(start))
            sequence.write(layer, start, value, value)
        sequence.computed(tokens[start : start + count])


def test_local_layers_hold_a_chunk_not_the_prompt() -> None:
    cache = new_cache(retentions((64,)), KVOptions(capacity_gib=1.0, segment_mib=1))
    sequence = cache.open(np.zeros(100_000, np.int32), 100_000)
    assert sequence is not None
    held = []
    for _ in range(0, 99_960, STEP):
        sequence.append(STEP)
        sequence.computed(np.zeros(STEP, np.int32))
        held.append(cache.statistics().used_bytes)
    assert max(held) <= (64 + STEP + 2 * 16) * 2 * HEADS * DIM * 4


def test_reading_what_is_gone_or_not_yet_there_is_a_mistake() -> None:
    cache = new_cache(retentions((64,)), KVOptions(capacity_gib=0.1))
    sequence = cache.open(np.zeros(200, np.int32), 200)
    assert sequence is not None
    sequence.append(150)
    sequence.computed(np.zeros(150, np.int32))
    with pytest.raises(AssertionError, match="not held"):
        list(sequence.runs(0, 0, 150))
    with pytest.raises(AssertionError, match="not held"):
        list(sequence.runs(0, 128, 151))
    assert sum(len(run.key) for run in sequence.runs(0, 128, 150)) == 22


def test_a_second_request_finds_what_the_first_computed_also_while_it_runs() -> None:
    cache = new_cache(retentions((None, 64)), KVOptions(capacity_gib=0.1))
    tokens = np.arange(1000, dtype=np.int32)
    first = cache.open(tokens, 1000)
    assert first is not None
    compute_all(first, tokens[:480], 2)
    second = cache.open(tokens, 1000)
    assert second is not None
    assert second.cached_tokens == 448, "up to the last edge of a chunk: local layers start anew there"
    first.close()
    third = cache.open(tokens, 1000)
    assert third is not None
    assert third.cached_tokens == 480, "what a closed request leaves includes its last chunk"
    assert cache.open(tokens, 1000, b"salt") is not None
    other = cache.open(tokens, 1000, b"other salt")
    assert other is not None
    assert other.cached_tokens == 0


def test_memory_grows_with_requests_and_goes_back_after_the_quiet_time() -> None:
    clock, driver = Clock(), HostDriver()
    options = KVOptions(capacity_gib=0.25, segment_mib=1, quiet_s=5.0, keep_prefixes_s=2.0)
    cache = new_cache(retentions((None,)), options, clock, driver)
    assert driver.physical_bytes() == MIB, "one segment a layer"
    tokens = np.arange(1_000_000, dtype=np.int32)
    sequence = cache.open(tokens, len(tokens))
    assert sequence is not None
    assert driver.physical_bytes() == MIB, "opening takes nothing"
    while sequence.length < len(tokens):
        count = min(STEP * 500, len(tokens) - sequence.length)
        sequence.append(count)
        sequence.computed(tokens[sequence.length - count : sequence.length])
    grown = driver.physical_bytes()
    assert grown >= len(tokens) * 32
    sequence.close()
    clock.now += 1.0
    assert cache.tick() is not None, "an idle engine must be woken to give memory back"
    assert driver.physical_bytes() == grown
    for _ in range(4):
        clock.now += 3.0
        cache.tick()
    assert driver.physical_bytes() - MIB <= 0.1 * (grown - MIB)
    assert cache.statistics().segments_destroyed > 0


def test_prefixes_that_leave_the_device_come_back_from_the_host() -> None:
    clock = Clock()
    cache = new_cache(
        retentions((None, 64)), KVOptions(capacity_gib=0.1, host_gib=0.05, keep_prefixes_s=1.0), clock
    )
    tokens = np.arange(1000, dtype=np.int32)
    first = cache.open(tokens, 1000)
    assert first is not None
    compute_all(first, tokens, 2)
    expected = torch.cat([run.key.clone() for run in first.runs(0, 0, 992)])
    first.close()
    clock.now += 2.0
    cache.tick()
    statistics = cache.statistics()
    assert statistics.used_bytes == 0
    assert statistics.cached_tokens == 0
    assert statistics.host_tokens == 992
    again = cache.open(tokens, 1000)
    assert again is not None
    assert again.cached_tokens == 992
    assert torch.equal(torch.cat([run.key for run in again.runs(0, 0, 992)]), expected)
    assert cache.statistics().restored_tokens == 992


def test_memory_does_not_wander_between_kinds_and_runs_stay_long() -> None:
    """A second prompt that lives on what it evicts of the first takes few, long runs; its layers keep their memory."""
    length, chunk = 200_000, 512
    cache = new_cache(retentions((None, chunk, chunk, chunk)), KVOptions(capacity_gib=0.0085))
    draw = np.random.default_rng(1)
    evictions = 0
    evict = RadixTree.victims

    def count(*arguments: Any, **more: Any) -> Any:
        nonlocal evictions
        evictions += 1
        return evict(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RadixTree, "victims", count)
        for _ in range(2):
            tokens = draw.integers(0, 1000, length).astype(np.int32)
            sequence = cache.open(tokens, length)
            assert sequence is not None
            compute_all(sequence, tokens, 0)
            runs = sum(1 for _ in sequence.runs(0, 0, length))
            sequence.close()
            cache.check_integrity()
    assert cache.statistics().evicted_tokens > length // 2
    assert evictions < 100, "each eviction frees a part of what may go"
    assert runs <= 3 * evictions


class Neighbour(HostDriver):
    """A device whose memory somebody else takes."""

    taken = False

    def memory(self) -> Memory:
        return Memory(0, super().memory().total) if self.taken else super().memory()


def test_a_neighbour_that_takes_the_memory_is_no_crash() -> None:
    driver = Neighbour()
    cache = new_cache(retentions((None,)), KVOptions(capacity_gib=0.1, segment_mib=1), driver=driver)
    tokens = np.arange(100_000, dtype=np.int32)
    sequence = cache.open(tokens, len(tokens))
    assert sequence is not None
    compute_all(sequence, tokens[:20_000], 1)
    driver.taken = True
    with pytest.raises(NoRoomError):
        sequence.append(80_000)
    cache.check_integrity()
    assert sequence.length == 20_000
    driver.taken = False
    sequence.append(80_000)
    assert sum(len(run.key) for run in sequence.runs(0, 0, 20_000)) == 20_000


def test_whether_a_request_fits_is_asked_of_no_page_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server asks on its own thread while the engine's works with the pools."""

    def surrenderable(pool: PagePool) -> int:
        raise AssertionError("a page pool was asked")

    cache = new_cache(retentions((None, 16)), KVOptions(capacity_gib=0.01))
    monkeypatch.setattr(PagePool, "surrenderable", surrenderable)
    assert cache.check_fits(8) > 0
    cache.close()
