"""The elastic KV cache on a device that refuses any call at any time: nothing is ever read that was not written.

A hit is whole, shortened or an error, whatever fails while it is brought back. Every sequence's contents are compared
in every kind of layer after every operation, and the debug mode finds a page that is read before it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from farspan.errors import DefectError, KVError
from farspan.kv.interface import KVCacheError, LayerRetention, retentions
from farspan.kv.kv_options import KVOptions
from farspan.kv.memory.drivers.driver import DriverError, Fence, Handle, Memory, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.host_tier import HostTier
from farspan.kv.memory.page_guard import DEBUG_VARIABLE
from kv_machine import DIM, HEADS, STEP, CacheMachine, content, new_cache

CALLS = ("create", "map", "set_access", "unmap", "destroy", "fence", "memory", "copy_in", "copy_out")


RATES = st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.6])
SEEDS = st.integers(0, 999)


class RefusingDriver(HostDriver):
    """Refuses calls that `calls` names: the `first` ones, and each with the probability `rate` after these.

    While there are first ones and `holds_out` says so, all are refused and none counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0
        self.calls: frozenset[str] = frozenset(CALLS)
        self.random = Random(0)
        self.first = 0
        self.holds_out: Callable[[], bool] = bool

    def chance(self, call: str, error: Exception) -> None:
        if (self.rate or self.first > 0) and call in self.calls:
            if self.first > 0 and self.holds_out():
                raise error
            self.first -= 1
            if self.first >= 0 or self.random.random() < self.rate:
                raise error

    def _create(self, size: int) -> int:
        self.chance("create", NoRoomError("injected"))
        return super()._create(size)

    def _map(self, address: int, size: int, key: Any) -> None:
        self.chance("map", NoRoomError("injected"))
        super()._map(address, size, key)

    def _allow_access(self, address: int, size: int) -> None:
        self.chance("set_access", NoRoomError("injected"))

    def _unmap(self, address: int, size: int) -> None:
        self.chance("unmap", DriverError("injected"))
        super()._unmap(address, size)

    def _destroy(self, handle: Handle) -> None:
        self.chance("destroy", DriverError("injected"))
        super()._destroy(handle)

    def fence(self) -> Fence:
        self.chance("fence", DriverError("injected"))
        return super().fence()

    def memory(self) -> Memory:
        self.chance("memory", DriverError("injected"))
        return super().memory()


class RefusedCopies(HostTier):
    """A host tier whose copies run out of memory when its driver says so, before or after they ran."""

    driver: RefusingDriver

    @contextmanager
    def _copying(self) -> Iterator[None]:
        self.driver.chance("copy_in", torch.OutOfMemoryError("injected"))
        yield
        self.driver.chance("copy_out", torch.OutOfMemoryError("injected"))


class RefusingMachine(CacheMachine):
    """All kinds of layers, a small device, a host tier that takes all that leaves it, and refusals everywhere."""

    layers = (*retentions((None, 32)), LayerRetention(window=24))

    @initialize(
        page=st.sampled_from([1, 4, 16]),
        keep=st.sampled_from([None, 0.0]),
        segments=st.integers(2, 4),
    )
    def start(self, page: int, keep: float | None, segments: int) -> None:
        self.make(page, keep, segments)
        for length in (30, 75, 140):  # a conversation: its turns leave secondary pages along one path
            tokens = np.random.default_rng(1).integers(0, 2, length).tolist()
            self.history.append(tokens)
            self.compute_all(tokens)

    def make(self, page: int, keep: float | None, segments: int) -> None:
        """Make the cache on a refusing driver."""
        self.driver = RefusingDriver()
        self.cache = new_cache(
            self.layers,
            KVOptions(
                capacity_gib=len(self.layers) * segments * 4096 / 2**30,
                page_tokens=page,
                host_gib=256 * 1024 / 2**30,
                keep_prefixes_s=keep,
                quiet_s=5.0,
                debug=True,
            ),
            self.clock,
            self.driver,
            self.dim,
        )
        tier = self.cache.prefixes._tier
        tier.__class__ = RefusedCopies
        tier.driver = self.driver

    @rule(rate=RATES, seed=SEEDS, calls=st.sampled_from([CALLS, *((call,) for call in CALLS)]))
    def weather(self, rate: float, seed: int, calls: tuple[str, ...]) -> None:
        """Choose how often which calls are refused from now on."""
        self.driver.rate, self.driver.random, self.driver.calls = rate, Random(seed), frozenset(calls)
        self.driver.first = 0

    @contextmanager
    def sunshine(self) -> Iterator[None]:
        rate, first = self.driver.rate, self.driver.first
        self.driver.rate, self.driver.first = 0.0, 0
        yield
        self.driver.rate, self.driver.first = rate, first

    @rule(kind=st.sampled_from([0, 0, 0, 1, 2]), pages=st.sampled_from([1, 8, 64, 1000]))
    def evict(self, kind: int, pages: int) -> None:
        """Let go of prefixes of one kind of layers, as another sequence's growth would."""
        with suppress(DriverError):
            self.cache.prefixes.evict(kind, pages)

    @precondition(lambda self: self.history)
    @rule(
        data=st.data(),
        left=st.sampled_from(["here", "on the host", "on the host, its memory gone"]),
        rate=st.sampled_from([0.0, 0.0, 0.3]),
        seed=SEEDS,
        calls=st.sampled_from([("create",), ("create",), CALLS]),
        first=st.integers(0, 9),
    )
    def come_back(
        self, data: st.DataObject, left: str, rate: float, seed: int, calls: tuple[str, ...], first: int
    ) -> None:
        """Continue all of what was computed before, wherever it is by now, in any weather."""
        with self.sunshine():
            if left != "here":
                for name in list(self.open):  # what they use would stay
                    self.end(name)
                while self.cache.prefixes.evict(0, 1000) and self.cache.statistics().cached_tokens:
                    pass
            if left.endswith("gone"):
                self.wait(20.0)
                self.wait(20.0)
        self.weather(rate, seed, calls)
        self.driver.first = first
        tokens = [*data.draw(st.sampled_from(self.history[-4:])), 0, 1]
        name = self.begin(tokens, len(tokens) + 20, 0)
        if name is not None:
            self.advance(name, min(STEP, len(tokens) - self.open[name][0].length))

    @rule(data=st.data(), extra=st.integers(0, 60), salt=st.sampled_from([0, 0, 0, 1]))
    def open_sequence(self, data: st.DataObject, extra: int, salt: int) -> None:
        stem = data.draw(st.sampled_from(self.history)) if self.history else []
        cut = data.draw(st.one_of(st.just(len(stem)), st.integers(0, len(stem))))
        tokens = stem[:cut] + data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=40))
        self.begin(tokens, len(tokens) + extra, salt)

    def begin(self, tokens: list[int], limit: int, salt: int) -> int | None:
        if len(self.open) >= 3:
            self.end(min(self.open))
        try:
            sequence = self.cache.open(np.array(tokens, np.int32), limit, bytes([salt]))
        except KVCacheError:
            return None
        except DriverError as error:
            if str(error) != "injected":
                raise AssertionError("the cache itself is at fault") from error
            return None
        if sequence is None:
            return None
        assert sequence.cached_tokens == sequence.length < len(tokens)
        name = self.names
        self.names += 1
        self.open[name] = (sequence, tokens, limit, salt)
        return name

    @rule(data=st.data(), salt=st.sampled_from([0, 0, 1]), seed=st.integers(0, 5), cut=st.floats(0, 1))
    def serve(self, data: st.DataObject, salt: int, seed: int, cut: float) -> None:
        stem = data.draw(st.sampled_from(self.history)) if self.history else []
        fresh = np.random.default_rng(seed).integers(0, 2, 20 + 20 * seed).tolist()
        tokens = stem[: int(cut * len(stem))] + fresh
        self.compute_all(tokens, salt)

    def compute_all(self, tokens: list[int], salt: int = 0) -> None:
        name = self.begin(tokens, len(tokens), salt)
        if name is None:
            return
        sequence = self.open[name][0]
        while sequence.length < len(tokens) and self.advance(name, min(STEP, len(tokens) - sequence.length)):
            pass
        self.end(name)

    def advance(self, name: int, count: int) -> bool:
        sequence, tokens, _, salt = self.open[name]
        start = sequence.length
        try:
            sequence.append(count)
        except KVCacheError:
            raise
        except KVError:
            assert sequence.length == start
            return False
        for layer in range(len(self.layers)):
            value = content(tokens, layer, start, start + count, salt, self.dim)
            sequence.write(layer, start, value, -value)
        self.read(name, start)
        sequence.computed(np.array(tokens[start : start + count], np.int32))
        return True

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close_sequence(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.open))))

    def end(self, name: int) -> None:
        """Close a sequence; what was not computed of its tokens is nobody's prefix."""
        sequence, tokens, _, _ = self.open.pop(name)
        self.history.append(tokens[: sequence.length] or tokens)
        sequence.close()

    @rule(seconds=st.sampled_from([0.1, 6.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        with suppress(DriverError):
            self.cache.tick()

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "cache"):
            with self.sunshine():
                self.cache.check_integrity()
                self.driver.check_integrity()
                statistics = self.cache.statistics()
                assert statistics.mapped_bytes == self.driver.physical_bytes()
                assert statistics.held_bytes <= statistics.used_bytes <= statistics.mapped_bytes

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.driver.rate, self.driver.first = 0.0, 0
            super().teardown()
            assert (self.driver.live_handles, self.driver.reserved_bytes) == (0, 0)
            self.driver.close()


class ReturningMachine(RefusingMachine):
    """Conversations that come back from the host to a device that refuses until the cache has nothing else to give.

    What a hit itself holds must stay then: the turns before left secondary pages along its path, and no other room is
    left to be made. A position takes a thirty-second of a segment, so that what comes back needs memory that an idle
    cache does not keep.
    """

    dim = 16
    weather = evict = come_back = open_sequence = serve = close_sequence = wait = None  # type: ignore[assignment]

    @initialize(
        layers=st.sampled_from([(None, 32, -24), (None, 16), (-40, None), (64, None, -10, None)]),
        page=st.sampled_from([1, 2, 4, 8]),
        segments=st.sampled_from([16, 32]),
    )
    def start(self, layers: tuple[int | None, ...], page: int, segments: int) -> None:  # type: ignore[override]
        self.layers = tuple(
            LayerRetention(window=-size) if size and size < 0 else LayerRetention(chunk=size)
            for size in layers
        )
        self.make(page, None, segments)
        self.driver.holds_out = self.others_can_go

    def others_can_go(self) -> bool:
        """Whether the cache holds what nobody uses, and can let go of it for the memory that is refused."""
        kinds = len(set(self.layers))
        return any(self.cache.prefixes.evictable(kind) for kind in range(kinds))

    @rule(
        turns=st.lists(st.integers(10, 70), min_size=1, max_size=3),
        seed=SEEDS,
        salt=st.integers(0, 1),
        more=st.integers(1, STEP),
        first=st.integers(0, 4),
        rate=st.sampled_from([0.0, 0.0, 0.3]),
        calls=st.sampled_from([("create", "map"), ("create", "map"), ("create",), CALLS]),
    )
    def return_late(
        self,
        turns: list[int],
        seed: int,
        salt: int,
        more: int,
        first: int,
        rate: float,
        calls: tuple[str, ...],
    ) -> None:
        """Compute a conversation's turns, have it leave for the host, and continue it."""
        tokens = np.random.default_rng(seed).integers(0, 50, sum(turns) + more).tolist()
        with self.sunshine():
            for turn in np.cumsum(turns):
                self.compute_all(tokens[:turn], salt)
            while self.cache.prefixes.evictable(0) and self.cache.prefixes.evict(0, 1000):
                pass
            for _ in range(2):  # segments that are empty for long go back to the device
                self.clock.now += 20.0
                self.cache.tick()
        RefusingMachine.weather(self, rate, seed, calls)
        self.driver.first = first
        name = self.begin(tokens, len(tokens) + 20, salt)
        if name is not None:
            self.read(name)
            self.advance(name, min(STEP, len(tokens) - self.open[name][0].length))
            self.end(name)


TestRefusals = RefusingMachine.TestCase
TestRefusals.settings = settings(max_examples=60, stateful_step_count=40)
TestReturning = ReturningMachine.TestCase
TestReturning.settings = settings(max_examples=90, stateful_step_count=6)


def test_what_is_read_before_it_is_written_is_found() -> None:
    cache = new_cache(retentions((None, 16)), KVOptions(capacity_gib=0.001, page_tokens=4, debug=True))
    sequence = cache.open(np.arange(20, dtype=np.int32), 40)
    assert sequence is not None
    sequence.append(20)
    for layer in range(2):
        sequence.write(layer, 0, torch.ones(18, HEADS, DIM), torch.ones(18, HEADS, DIM))
    list(sequence.runs(0, 0, 18))
    with pytest.raises(DefectError, match="position 18 of the KV cache is read in slot 18, which nobody has"):
        list(sequence.runs(0, 0, 20))
    sequence.close()
    cache.close()


def test_a_page_that_was_let_go_is_poisoned_and_the_variable_turns_it_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    cache = new_cache(retentions((None,)), KVOptions(capacity_gib=0.001, prefix_caching=False))
    sequence = cache.open(np.arange(20, dtype=np.int32), 40)
    assert sequence is not None
    sequence.append(20)
    sequence.write(0, 0, torch.ones(20, HEADS, DIM), torch.ones(20, HEADS, DIM))
    (run,) = sequence.runs(0, 0, 20)
    assert float(run.key.sum()) == 20 * HEADS * DIM
    sequence.close()
    assert bool(run.key.isnan().all())
    cache.close()
    monkeypatch.setenv(DEBUG_VARIABLE, "0")
    assert new_cache(retentions((None,)), KVOptions(capacity_gib=0.001)).read_check(0) is None


def test_host_memory_that_cannot_be_had_costs_the_prefix_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = new_cache(retentions((None, 16)), KVOptions(capacity_gib=0.001, host_gib=0.001, page_tokens=4))
    sequence = cache.open(np.arange(40, dtype=np.int32), 40)
    assert sequence is not None
    sequence.append(40)
    sequence.computed(np.arange(40, dtype=np.int32))
    sequence.close()

    def refuse(tier: HostTier, shelf: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(HostTier, "_add_block", refuse)
    assert cache.prefixes is not None
    cache.prefixes.evict_all()
    cache.check_integrity()
    statistics = cache.statistics()
    assert (statistics.cached_tokens, statistics.host_tokens, statistics.used_bytes) == (0, 0, 0)
    cache.close()
