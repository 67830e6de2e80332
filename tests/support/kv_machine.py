"""A state machine over the elastic KV cache, against what every position must hold.

The oracle is in the content: keys and values of a position are derived from all tokens up to it. Whatever is shared,
evicted, kept on the host, restored or moved to memory that another layer kind had, a sequence must read at each
position exactly what its own tokens imply.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from farspan.kv.interface import KVCacheError, LayerRetention, SequenceKV, retentions
from farspan.kv.kv_options import KVOptions
from farspan.kv.kvcache import ElasticKVCache
from farspan.kv.memory.drivers.host import HostDriver

HEADS, DIM = 1, 4
STEP = 40
MIB = 2**20
CPU = torch.device("cpu")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def new_cache(
    layers: tuple[LayerRetention, ...],
    options: KVOptions,
    clock: Clock | None = None,
    driver: HostDriver | None = None,
    dim: int = DIM,
) -> ElasticKVCache:
    return ElasticKVCache(
        layers=layers,
        num_kv_heads=HEADS,
        head_dim=dim,
        dtype=torch.float32,
        device=CPU,
        max_step_tokens=STEP,
        options=options,
        clock=clock or Clock(),
        driver=driver,
    )


def content(
    tokens: list[int], layer: int, start: int, stop: int, salt: int = 0, dim: int = DIM
) -> torch.Tensor:
    """Return a value for each position that other histories, layers and namespaces do not have."""
    state, values = 7919 * (layer + 1) + salt, []
    for token in tokens[:stop]:
        state = (state * 31 + token + 1) % 1_000_003
        values.append(state)
    lanes = torch.arange(HEADS * dim, dtype=torch.float32).reshape(1, HEADS, dim) / 8
    return torch.tensor(values[start:], dtype=torch.float32)[:, None, None] + lanes


class CacheMachine(RuleBasedStateMachine):
    """Opens, computes, reads and closes sequences of few tokens, so that prefixes are shared all the time."""

    layers: tuple[LayerRetention, ...] = retentions((None, 16, 32, None))
    dim = DIM

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.open: dict[int, tuple[SequenceKV, list[int], int, int]] = {}
        self.names = 0
        self.history: list[list[int]] = []

    @initialize(
        page=st.sampled_from([1, 4, 16]),
        host=st.booleans(),
        keep=st.sampled_from([None, 0.0, 10.0]),
        segments=st.integers(1, 4),
    )
    def start(self, page: int, host: bool, keep: float | None, segments: int) -> None:
        self.page = page
        # The host driver grows by 4 KiB: 128 positions of 32 bytes a layer, so a cap of a few hundred positions.
        self.cache = new_cache(
            self.layers,
            KVOptions(
                capacity_gib=len(self.layers) * segments * 4096 / 2**30,
                page_tokens=page,
                host_gib=256 * 1024 / 2**30 if host else 0.0,
                keep_prefixes_s=keep,
                quiet_s=5.0,
            ),
            self.clock,
        )

    @rule(data=st.data(), extra=st.integers(0, 60), salt=st.integers(0, 1))
    def open_sequence(self, data: st.DataObject, extra: int, salt: int) -> None:
        stem = data.draw(st.sampled_from(self.history)) if self.history else []
        cut = data.draw(st.integers(0, len(stem)))
        tokens = stem[:cut] + data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=80))
        try:
            sequence = self.cache.open(np.array(tokens, np.int32), len(tokens) + extra, bytes([salt]))
        except KVCacheError:
            return
        if sequence is None:
            assert self.open, "an empty cache refused what fits it"
            return
        assert sequence.cached_tokens == sequence.length < len(tokens)
        self.open[self.names] = (sequence, tokens, len(tokens) + extra, salt)
        self.read(self.names)
        self.names += 1

    @rule(data=st.data(), salt=st.sampled_from([0, 0, 1]), seed=st.integers(0, 5), cut=st.floats(0, 1))
    def serve(self, data: st.DataObject, salt: int, seed: int, cut: float) -> None:
        """Open a sequence, compute all of it and close it: its prefix stays, or pushes an older one out."""
        stem = data.draw(st.sampled_from(self.history)) if self.history else []
        fresh = np.random.default_rng(seed).integers(0, 2, 20 + 20 * seed).tolist()
        tokens = stem[: int(cut * len(stem))] + fresh
        try:
            sequence = self.cache.open(np.array(tokens, np.int32), len(tokens), bytes([salt]))
        except KVCacheError:
            return
        if sequence is None:
            assert self.open, "an empty cache refused what fits it"
            return
        name = self.names
        self.names += 1
        self.open[name] = (sequence, tokens, len(tokens), salt)
        self.read(name)
        while sequence.length < len(tokens):
            self.advance(name, min(STEP, len(tokens) - sequence.length))
        del self.open[name]
        self.history.append(tokens)
        sequence.close()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), count=st.integers(1, STEP))
    def compute(self, data: st.DataObject, count: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        sequence, tokens, limit, _ = self.open[name]
        start = sequence.length
        if start + count > limit:
            with pytest.raises(KVCacheError, match="was opened for"):
                sequence.append(count)
            return
        missing = start + count - len(tokens)
        if missing > 0:
            tokens += data.draw(st.lists(st.integers(0, 1), min_size=missing, max_size=missing))
        self.advance(name, count)

    def advance(self, name: int, count: int) -> None:
        sequence, tokens, _, salt = self.open[name]
        start = sequence.length
        sequence.append(count)  # what was admitted has its room: no neighbour takes memory here
        for layer in range(len(self.layers)):
            value = content(tokens, layer, start, start + count, salt, self.dim)
            sequence.write(layer, start, value, -value)
        self.read(name, start)
        sequence.computed(np.array(tokens[start : start + count], np.int32))
        self.read(name)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close_sequence(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        sequence, tokens, _, _ = self.open.pop(name)
        self.history.append(tokens)
        sequence.close()
        sequence.close()

    @rule(seconds=st.sampled_from([0.1, 6.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.cache.tick()

    @rule()
    def reset(self) -> None:
        self.cache.reset_prefixes()

    def read(self, name: int, position: int | None = None) -> None:
        """Read all that a query at `position`, by default the next, needs in every layer."""
        sequence, tokens, _, salt = self.open[name]
        position = sequence.length if position is None else position
        for layer, retention in enumerate(self.layers):
            first = retention.first_needed(position)
            if first >= sequence.length:
                continue
            runs = list(sequence.runs(layer, first, sequence.length))
            expected = content(tokens, layer, first, sequence.length, salt, self.dim)
            assert torch.equal(torch.cat([run.key for run in runs]), expected)
            assert torch.equal(torch.cat([run.value for run in runs]), -expected)

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache.check_integrity()
        statistics = self.cache.statistics()
        assert statistics.sequences == len(self.open)
        assert statistics.tokens == sum(sequence.length for sequence, *_ in self.open.values())
        assert statistics.held_bytes <= statistics.used_bytes <= statistics.mapped_bytes
        assert statistics.mapped_bytes <= statistics.capacity_bytes

    @invariant()
    def everything_open_is_intact(self) -> None:
        for name in self.open:
            self.read(name)

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        for sequence, *_ in self.open.values():
            sequence.close()
        self.cache.reset_prefixes()
        assert self.cache.statistics().used_bytes == 0
        self.clock.now += 100
        self.cache.tick()
        self.clock.now += 100
        self.cache.tick()
        assert self.cache.statistics().mapped_bytes == self.least_bytes()
        self.cache.close()

    def least_bytes(self) -> int:
        """Return what an empty cache keeps mapped."""
        return len(self.layers) * 4096
