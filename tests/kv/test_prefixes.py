"""Room for a sequence in a full cache: how much is evicted at a time, and what happens when nothing is left to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farspan.kv.compaction import compact
from farspan.kv.formats import KVFormat
from farspan.kv.interface import retentions
from farspan.kv.kinds import LayerKind
from farspan.kv.kv_options import KVOptions
from farspan.kv.kvcache import ElasticKVCache
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool
from farspan.kv.retention import LayerRetention
from farspan.kv.sequence import ElasticSequenceKV
from farspan.kv.sequence_pages import PageTable

GIB = 2**30
ROW_BYTES = 32


def new_cache(chunks: tuple[int | None, ...], step: int, options: KVOptions) -> ElasticKVCache:
    return ElasticKVCache(
        layers=retentions(chunks),
        num_kv_heads=1,
        head_dim=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
        max_step_tokens=step,
        options=options,
    )


def fill(cache: ElasticKVCache, tokens: np.ndarray, limit: int, step: int) -> ElasticSequenceKV:
    sequence = cache.open(tokens[:limit], limit)
    assert sequence is not None
    while sequence.length < len(tokens[:limit]):
        part = tokens[sequence.length : min(limit, sequence.length + step)]
        sequence.append(len(part))
        sequence.computed(part)
    return sequence


def test_a_prompt_that_grows_into_a_full_cache_lies_in_few_runs() -> None:
    length, step = 200_000, 1024
    cache = new_cache((None,), step, KVOptions(capacity_gib=1.4 * length * ROW_BYTES / GIB, segment_mib=1))
    runs = []
    for seed in range(3):
        tokens = np.random.default_rng(seed).integers(0, 50_000, length, dtype=np.int32)
        sequence = fill(cache, tokens, length, step)
        runs.append(sum(1 for _ in sequence.runs(0, 0, length)))
        sequence.close()
    cache.check_integrity()
    assert runs[0] == 1
    assert max(runs) <= 80, "a run a step would be 196"


def test_eviction_takes_a_small_part_of_what_may_go() -> None:
    length, step = 100_000, 1024
    cache = new_cache((None,), step, KVOptions(capacity_gib=1.1 * length * ROW_BYTES / GIB))
    tokens = np.arange(length, dtype=np.int32)
    fill(cache, tokens, length, step).close()
    room = cache.statistics().capacity_bytes // ROW_BYTES - length
    other = cache.open(np.full(room + step, 7, np.int32), room + step)
    assert other is not None
    other.append(room)
    assert cache.statistics().evicted_tokens == 0
    other.append(step)
    assert step <= cache.statistics().evicted_tokens <= length // 32 + 16


@pytest.mark.parametrize("chunks", [(None,), (None, 4096)])
def test_prefixes_change_places_with_a_full_host_and_none_is_lost(chunks: tuple[int | None, ...]) -> None:
    """Device and host hold three prompts and little beside: much less than the prompt that is brought back."""
    length, step, prompts = 50_000, 1024, 3
    local = (len(chunks) - 1) * 0.25
    sizes = {"capacity_gib": 1.4 + local, "host_gib": 0.2 + prompts - 1.4 + local}
    options = KVOptions(**{name: size * length * ROW_BYTES / GIB for name, size in sizes.items()})
    cache = new_cache(chunks, step, options)
    texts = [
        np.random.default_rng(seed).integers(0, 50_000, length, dtype=np.int32) for seed in range(prompts)
    ]
    for text in texts:
        fill(cache, text, length, step).close()
    for text in texts * 2:
        sequence = cache.open(text, length)
        assert sequence is not None
        assert sequence.cached_tokens >= length - 16
        sequence.close()
        cache.check_integrity()
    assert cache.statistics().restored_tokens > 4 * length


@pytest.mark.parametrize("page_tokens", [1, 4, 16])
def test_spans_along_a_prefix_in_use_make_room_when_nothing_else_can(page_tokens: int) -> None:
    """A conversation leaves a span of the local layers at the end of every turn, all on the path of the next one."""
    step, limit = 40, 896  # 7 segments of the full layer and 1 of the local: all there are
    cache = new_cache((None, 64), step, KVOptions(capacity_gib=8 * 4096 / GIB, page_tokens=page_tokens))
    tokens = np.arange(limit, dtype=np.int32)
    for turn in range(7):
        fill(cache, tokens, 60 + 64 * turn, step).close()
    sequence = fill(cache, tokens, limit, step)
    assert sequence.cached_tokens > 400
    cache.check_integrity()
    assert sum(len(run.key) for run in sequence.runs(0, 0, limit)) == limit


def new_kind() -> tuple[LayerKind, SegmentPool]:
    segments = SegmentPool(HostDriver(), 4096, Cap(64 * 4096))
    form = KVFormat(1, 4, torch.float32, fp8=False)
    assert form.row_bytes == ROW_BYTES
    kind = LayerKind(LayerRetention(32), (0, 1), PagePool(segments, [ROW_BYTES] * 2, 16, 64))
    kind.open_stores(form)
    return kind, segments


def test_a_page_that_keeps_a_segment_moves_with_its_contents() -> None:
    kind, _ = new_kind()
    pages = kind.pool.alloc(kind.pool.pages_per_segment + 1)
    assert pages is not None
    table = PageTable(16, first_page=5)
    table.append(pages[-1:])
    kind.pool.free(pages[:-1])
    for number, rows in enumerate(kind.page_rows):
        rows[int(pages[-1])] = number + 3
    assert compact(kind, [table])
    assert table.held().tolist() == [0]
    assert table.first_page == 5
    table.check_integrity()
    assert [rows[0].unique().tolist() for rows in kind.page_rows] == [[3], [4]]
    assert kind.pool.occupancy().tolist()[:2] == [1, 0]
    assert not compact(kind, [table]), "the first segment stays"


def test_shared_pages_and_those_of_others_do_not_move() -> None:
    kind, _ = new_kind()
    pages = kind.pool.alloc(kind.pool.pages_per_segment + 1)
    assert pages is not None
    table = PageTable(16)
    table.append(pages[-1:])
    assert not compact(kind, [table]), "there is no free page below"
    kind.pool.free(pages[:-1])
    assert not compact(kind, []), "nobody's table names it"
    kind.pool.share(pages[-1:])
    assert not compact(kind, [table])
    assert kind.pool.used == 1
    assert table.held().tolist() == pages[-1:].tolist()
