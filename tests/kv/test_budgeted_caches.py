"""Two elastic KV caches on one budget, as two servers have them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from farspan.kv.interface import KVCacheShrunkError, SequenceKV, retentions
from farspan.kv.kv_options import KVOptions
from farspan.kv.kvcache import ElasticKVCache
from farspan.kv.memory.budget.budget_file import FOLDER_VARIABLE, BudgetFile
from farspan.kv.memory.budget.settings import BudgetSettings

MIB = 2**20
LIMIT = 64 * MIB
STEP = 256
LAYERS = retentions((None, 64))
TOKEN_BYTES = 2 * 2 * 16 * 4  # keys and values of a layer
# Most of the budget: two such sequences do not fit beside each other.
TOKENS = 40 * MIB // TOKEN_BYTES


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path / "shared@host.budget"


@pytest.fixture
def caches(path: Path) -> Iterator[tuple[ElasticKVCache, ElasticKVCache]]:
    pair = [
        ElasticKVCache(
            layers=LAYERS,
            num_kv_heads=2,
            head_dim=16,
            dtype=torch.float32,
            device=torch.device("cpu"),
            max_step_tokens=STEP,
            options=KVOptions(
                segment_mib=1, quiet_s=1000, budget=BudgetSettings("shared", LIMIT), member=name
            ),
        )
        for name in ("a", "b")
    ]
    yield pair[0], pair[1]
    for cache in pair:
        cache.close()


def tokens(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, TOKENS, dtype=np.int32)


def fill(sequence: SequenceKV, ids: np.ndarray) -> None:
    for start in range(sequence.length, len(ids), STEP):
        count = min(STEP, len(ids) - start)
        sequence.append(count)
        sequence.computed(ids[start : start + count])


def served(cache: ElasticKVCache, other: ElasticKVCache, ids: np.ndarray) -> None:
    """Open a sequence as a scheduler does, both servers ticking, and fill it."""
    until = time.monotonic() + 10
    other.tick()
    while (sequence := cache.open(ids, len(ids))) is None:
        assert time.monotonic() < until
        other.tick()
        cache.tick()
    fill(sequence, ids)
    sequence.close()


def held(path: Path) -> list[int]:
    file = BudgetFile(path)
    found = [slot.held for slot in file.members().values()]
    file.close()
    assert sum(found) <= LIMIT
    return found


def test_cached_prefixes_of_an_idle_server_make_room(
    caches: tuple[ElasticKVCache, ElasticKVCache], path: Path
) -> None:
    one, two = caches
    served(one, two, tokens(1))
    assert held(path)[0] > LIMIT / 2
    served(two, one, tokens(2))
    assert held(path)[1] > LIMIT / 2
    served(one, two, tokens(3))
    assert held(path)[0] > LIMIT / 2
    for cache in caches:
        cache.check_integrity()


def test_who_is_admitted_has_its_memory_for_sure(
    caches: tuple[ElasticKVCache, ElasticKVCache], path: Path
) -> None:
    one, two = caches
    ids = tokens(1)
    sequence = one.open(ids, len(ids))
    assert sequence is not None
    time.sleep(0.1)  # what may be held is read again
    with pytest.raises(KVCacheShrunkError, match="others hold the rest"):
        two.open(tokens(2), TOKENS)
    small = two.open(tokens(2)[:1000], 1000)
    assert small is not None
    fill(small, tokens(2)[:1000])
    fill(sequence, ids)
    sequence.close()
    small.close()
    one.tick()
    served(two, one, tokens(2))


def test_a_limit_that_is_lowered_takes_cached_prefixes_too(
    caches: tuple[ElasticKVCache, ElasticKVCache], path: Path
) -> None:
    one, two = caches
    served(one, two, tokens(1))
    file = BudgetFile(path)
    with file.locked():
        file.write_limit(20 * MIB)
    for _ in range(100):
        one.segments._limit_until = float("-inf")  # as after some time
        one.tick()
    assert sum(slot.held for slot in file.members().values()) <= 20 * MIB
    file.close()
    one.check_integrity()


def test_a_waiting_neighbour_takes_nothing_from_an_admitted_sequence(
    caches: tuple[ElasticKVCache, ElasticKVCache],
) -> None:
    one, two = caches
    ids, half = tokens(1), tokens(2)[: TOKENS * 3 // 5]
    sequence = one.open(ids, len(ids))
    assert sequence is not None
    fill(sequence, ids[: TOKENS // 2])
    time.sleep(0.1)
    for start in range(sequence.length, len(ids), STEP):
        assert two.open(half, len(half)) is None, "it waits, and says so"
        one.tick()
        count = min(STEP, len(ids) - start)
        sequence.append(count)
        sequence.computed(ids[start : start + count])
    sequence.close()
    served(two, one, half)
