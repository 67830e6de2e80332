"""Two elastic KV caches on one budget, as two servers have them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from failing_driver import Clock
from farspan.kv.interface import KVCacheShrunkError, RoomWait, SequenceKV, retentions
from farspan.kv.kv_options import KVOptions
from farspan.kv.kvcache import ElasticKVCache
from farspan.kv.memory.budget.budget_file import FOLDER_VARIABLE, BudgetFile
from farspan.kv.memory.budget.control import read_budget, set_limit
from farspan.kv.memory.budget.neighbours import SilenceCount
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


def opened(cache: ElasticKVCache, other: ElasticKVCache, ids: np.ndarray) -> SequenceKV:
    """Open a sequence as a scheduler does, both servers ticking, until it is admitted or refused."""
    wait: RoomWait | None = None
    while (sequence := cache.open(ids, len(ids))) is None:
        wait = cache.check_wait(len(ids), wait)
        other.tick()
        cache.tick()
    return sequence


def served(cache: ElasticKVCache, other: ElasticKVCache, ids: np.ndarray) -> None:
    """Open a sequence and fill it, both servers ticking."""
    sequence = opened(cache, other, ids)
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
    refusal = rf"others hold the rest.*; a \(process {os.getpid()}\) needs 41\.0 MiB for its requests"
    with pytest.raises(KVCacheShrunkError, match=refusal):
        opened(two, one, tokens(2))
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
    for start in range(sequence.length, len(ids), STEP):
        assert two.open(half, len(half)) is None, "it waits, and says so"
        one.tick()
        count = min(STEP, len(ids) - start)
        sequence.append(count)
        sequence.computed(ids[start : start + count])
    sequence.close()
    served(two, one, half)


def test_who_has_not_looked_since_a_request_came_is_waited_for(
    caches: tuple[ElasticKVCache, ElasticKVCache], path: Path
) -> None:
    """A neighbour's requests have ended, and it says so late: whoever needs the room waits, and is not refused."""
    one, two = caches
    served(one, two, tokens(1))  # closed, and one has not looked since: the budget has it in use
    (first, _) = read_budget(path).servers
    assert first.wanted > LIMIT / 2
    wait: RoomWait | None = None
    two.check_fits(TOKENS)
    for _ in range(100):
        assert two.open(tokens(2), TOKENS) is None
        wait = two.check_wait(TOKENS, wait)
        two.tick()
    served(two, one, tokens(2))
    assert held(path)[1] > LIMIT / 2


def test_who_does_not_look_any_more_is_named(
    caches: tuple[ElasticKVCache, ElasticKVCache], path: Path
) -> None:
    one, two = caches
    served(one, two, tokens(1))
    clock = Clock()
    assert two.budget is not None
    two.budget._silences = SilenceCount(clock)
    wait: RoomWait | None = None
    refusal = (
        r"others hold the rest.*; a \(process \d+\) holds 41\.0 MiB and has not looked at the budget for 30 s"
    )
    for _ in range(30):
        assert two.open(tokens(2), TOKENS) is None
        wait = two.check_wait(TOKENS, wait)
        clock.now += 3600  # no more than a second of it counts
    assert two.open(tokens(2), TOKENS) is None
    with pytest.raises(KVCacheShrunkError, match=refusal):
        two.check_wait(TOKENS, wait)
    assert read_budget(path).servers[1].wished == 0, "who was refused wishes no more"
    with pytest.raises(KVCacheShrunkError, match="has not looked"):  # at once, now that it is known
        opened(two, two, tokens(2))
    one.tick()
    served(two, one, tokens(2))


@pytest.mark.parametrize("server", ["b", None])
def test_a_limit_that_is_lifted_is_so_at_once(
    caches: tuple[ElasticKVCache, ElasticKVCache], path: Path, server: str | None
) -> None:
    _, two = caches
    for _ in range(3):
        set_limit(path, 20 * MIB, server)
        with pytest.raises(KVCacheShrunkError, match=r"now: the limit of .* farspan kv limit"):
            two.check_fits(TOKENS)
        set_limit(path, None if server else LIMIT, server)
        assert two.check_fits(TOKENS) >= 40 * MIB
        sequence = two.open(tokens(1), TOKENS)
        assert sequence is not None
        sequence.close()


def test_two_that_want_the_most_of_it_at_once_are_served_in_turn(
    caches: tuple[ElasticKVCache, ElasticKVCache],
) -> None:
    one, two = caches
    served(one, two, tokens(1))
    served(two, one, tokens(2)[: TOKENS // 3])
    # Both are idle, and keep prefixes; each lacks what the other has, and one was first.
    assert one.open(tokens(3), TOKENS * 5 // 4) is None
    assert two.open(tokens(4), TOKENS * 5 // 4) is None
    waits = [one.check_wait(TOKENS, None), two.check_wait(TOKENS, None)]
    while (sequence := one.open(tokens(3), TOKENS * 5 // 4)) is None:
        assert two.open(tokens(4), TOKENS * 5 // 4) is None
        waits = [cache.check_wait(TOKENS * 5 // 4, wait) for cache, wait in zip(caches, waits, strict=True)]
        one.tick()
        two.tick()
    with pytest.raises(KVCacheShrunkError, match=r"a \(process \d+\) needs .* for its requests"):
        opened(two, one, tokens(4))
    fill(sequence, tokens(3))
    sequence.close()
    served(two, one, tokens(4))


@pytest.mark.parametrize("taker", ["neighbour", "trim"])
def test_what_an_admitted_sequence_counts_on_stays_its_own(
    caches: tuple[ElasticKVCache, ElasticKVCache], path: Path, taker: str
) -> None:
    """Also where it is cached prefixes, or idle segments, that the sequence will use."""
    one, two = caches
    served(one, two, tokens(1))
    ids, half = tokens(2), tokens(3)[: TOKENS * 3 // 5]
    sequence = one.open(ids, len(ids))
    assert sequence is not None
    file = BudgetFile(path)
    for stop in range(TOKENS // 16, TOKENS + 1, TOKENS // 16):
        assert two.open(half, len(half)) is None, "it waits, and says so"
        if taker == "trim":
            with file.locked():
                file.ask(min(file.members()), None, stop)
        one.segments._limit_until = float("-inf")  # as after some time
        one.tick()
        fill(sequence, ids[:stop])
    file.close()
    sequence.close()
    served(two, one, half)
    for cache in caches:
        cache.check_integrity()
