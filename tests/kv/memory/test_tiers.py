"""The host tier gives back what it was given, within its budget."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from farspan.kv.memory.host_tier import HostTier

CPU = torch.device("cpu")
PAGES = 64
LAYERS = ((32, 32, 48), (16,))
BUDGET = 6_000


def new_layers() -> list[list[torch.Tensor]]:
    return [[torch.zeros((PAGES, size), dtype=torch.uint8) for size in sizes] for sizes in LAYERS]


class TierMachine(RuleBasedStateMachine):
    """Stores, loads and frees pages whose content is known."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = new_layers()
        self.tier = HostTier(LAYERS, BUDGET, CPU)
        self.kept: list[tuple[int, np.ndarray, list[torch.Tensor]]] = []

    @rule(data=st.data(), kind=st.integers(0, 1), seed=st.integers(0, 2**31))
    def store(self, data: st.DataObject, kind: int, seed: int) -> None:
        pages = np.array(data.draw(st.lists(st.integers(0, PAGES - 1), min_size=1, unique=True)), np.int32)
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers[kind]:
            layer.copy_(torch.randint(0, 256, layer.shape, generator=generator, dtype=torch.uint8))
        room, used = self.tier.room(kind), self.tier.used_bytes
        host = self.tier.store(kind, self.layers[kind], pages)
        assert (host is None) == (len(pages) > room)
        if host is None:
            assert self.tier.used_bytes == used
        else:
            index = torch.from_numpy(pages.astype(np.int64))
            self.kept.append((kind, host, [layer[index] for layer in self.layers[kind]]))

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        kind, host, content = data.draw(st.sampled_from(self.kept))
        target = np.random.default_rng(len(host)).permutation(PAGES)[: len(host)].astype(np.int32)
        self.tier.load(kind, self.layers[kind], host, target)
        for layer, expected in zip(self.layers[kind], content, strict=True):
            assert torch.equal(layer[torch.from_numpy(target.astype(np.int64))], expected)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.kept) - 1))
        kind, host, _ = self.kept.pop(index)
        self.tier.free(kind, host)

    @invariant()
    def books_balance(self) -> None:
        held = [
            np.concatenate([np.empty(0, np.int32), *(host for kind, host, _ in self.kept if kind == wanted)])
            for wanted in (0, 1)
        ]
        self.tier.check_integrity(held)
        assert self.tier.used_bytes == sum(
            len(pages) * sum(sizes) for pages, sizes in zip(held, LAYERS, strict=True)
        )
        assert self.tier.used_bytes <= self.tier.allocated_bytes <= BUDGET


TestTier = TierMachine.TestCase
TestTier.settings = settings(max_examples=40, stateful_step_count=25)


def test_no_budget_keeps_nothing() -> None:
    tier = HostTier(LAYERS, 0, CPU)
    assert tier.room(0) == 0
    assert tier.store(0, new_layers()[0], np.arange(1, dtype=np.int32)) is None
    assert tier.allocated_bytes == 0


def test_a_copy_that_fails_loses_no_host_page() -> None:
    tier = HostTier(LAYERS, BUDGET, CPU)
    before = tier.room(0)
    with pytest.raises(IndexError):
        tier.store(0, new_layers()[0], np.array([0, PAGES], np.int32))
    assert tier.room(0) == before
    assert tier.used_bytes == 0
