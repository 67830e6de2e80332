"""The growing KV cache against a plain dict of what was written, under random operations."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from farspan.kv.growing import GrowingKVCache
from farspan.kv.interface import KVCacheError, SequenceKV, retentions

HEADS, DIM = 2, 4
STEP = 3000


def new_cache(chunks: tuple[int | None, ...], capacity_bytes: int) -> GrowingKVCache:
    return GrowingKVCache(
        layers=retentions(chunks),
        num_kv_heads=HEADS,
        head_dim=DIM,
        dtype=torch.float32,
        device=torch.device("cpu"),
        max_step_tokens=STEP,
        capacity_bytes=capacity_bytes,
    )


def content(sequence: int, layer: int, start: int, stop: int) -> torch.Tensor:
    """A value for each position that no other sequence, layer or position has."""
    position = torch.arange(start, stop, dtype=torch.float32)[:, None, None]
    lane = torch.arange(HEADS * DIM, dtype=torch.float32).reshape(1, HEADS, DIM) / 16
    return position + lane + 100_000 * layer + 1_000_000 * sequence


class CacheMachine(RuleBasedStateMachine):
    """Opens, grows, reads and closes sequences, and expects to read back exactly what was written."""

    chunks: tuple[int | None, ...] = (None, 512, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.cache = new_cache(self.chunks, 6_000_000)
        self.open: dict[int, tuple[SequenceKV, int]] = {}
        self.names = 0

    @rule(prompt=st.integers(1, 4000), extra=st.integers(0, 6000))
    def open_sequence(self, prompt: int, extra: int) -> None:
        free = self.cache.statistics()
        needed = self.cache.needed_bytes(prompt + extra)
        if needed > free.capacity_bytes:
            with pytest.raises(KVCacheError, match="--kv-cache-gib"):
                self.cache.open(np.zeros(prompt, np.int32), prompt + extra)
            return
        sequence = self.cache.open(np.zeros(prompt, np.int32), prompt + extra)
        assert (sequence is None) == (needed > free.capacity_bytes - free.reserved_bytes)
        if sequence is not None:
            self.open[self.names] = (sequence, prompt + extra)
            self.names += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data(), count=st.integers(1, STEP))
    def grow(self, data: st.DataObject, count: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        sequence, limit = self.open[name]
        start = sequence.length
        if start + count > limit:
            before = self.cache.statistics()
            with pytest.raises(KVCacheError, match="was opened for"):
                sequence.append(count)
            assert self.cache.statistics() == before
            return
        sequence.append(count)
        for layer in range(len(self.chunks)):
            value = content(name, layer, start, start + count)
            sequence.write(layer, start, value, -value)
        self.read(name, start)
        sequence.retain(start + count)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close_sequence(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        sequence, _ = self.open.pop(name)
        sequence.close()
        sequence.close()

    def read(self, name: int, position: int) -> None:
        """Read all that a query at `position` needs, in every layer."""
        sequence, _ = self.open[name]
        for layer, chunk in enumerate(self.chunks):
            first = 0 if chunk is None else position // chunk * chunk
            runs = sequence.runs(layer, first, sequence.length)
            expected = content(name, layer, first, sequence.length)
            nothing = expected[:0]  # a local layer at the start of a chunk
            assert torch.equal(torch.cat([nothing, *(run.key for run in runs)]), expected)
            assert torch.equal(torch.cat([nothing, *(run.value for run in runs)]), -expected)

    @invariant()
    def books_balance(self) -> None:
        self.cache.check_integrity()
        statistics = self.cache.statistics()
        assert statistics.sequences == len(self.open)
        assert statistics.tokens == sum(sequence.length for sequence, _ in self.open.values())
        assert statistics.allocated_bytes <= statistics.reserved_bytes <= statistics.capacity_bytes

    @invariant()
    def everything_kept_is_intact(self) -> None:
        for name, (sequence, _) in self.open.items():
            if sequence.length:
                self.read(name, sequence.length)

    def teardown(self) -> None:
        for sequence, _ in self.open.values():
            sequence.close()
        assert self.cache.statistics().allocated_bytes == 0
        assert self.cache.statistics().reserved_bytes == 0


class ChunkOfOneStepMachine(CacheMachine):
    """Chunks larger than a step, and only local layers."""

    chunks = (4096, 4096)


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLocalOnly = ChunkOfOneStepMachine.TestCase
TestLocalOnly.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


def test_local_layers_hold_a_chunk_not_the_prompt() -> None:
    cache = new_cache((8192,), 2**30)
    sequence = cache.open(np.zeros(100_000, np.int32), 100_000)
    assert sequence is not None
    held = []
    for start in range(0, 99_000, STEP):
        sequence.append(STEP)
        sequence.retain(start + STEP)
        held.append(cache.statistics().allocated_bytes)
    assert max(held) <= 2 * 8192 * 2 * HEADS * DIM * 4


def test_reading_what_is_gone_or_not_yet_there_is_a_mistake() -> None:
    cache = new_cache((512,), 2**30)
    sequence = cache.open(np.zeros(2000, np.int32), 2000)
    assert sequence is not None
    sequence.append(1500)
    sequence.retain(1500)
    with pytest.raises(AssertionError, match="not held"):
        sequence.runs(0, 0, 1500)
    with pytest.raises(AssertionError, match="not held"):
        sequence.runs(0, 1024, 1501)
    assert sequence.runs(0, 1024, 1500)[0].key.shape == (476, HEADS, DIM)
