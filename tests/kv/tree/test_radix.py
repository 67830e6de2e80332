"""The prefix tree: order of eviction, growth in place, sizes where blocks matter, what it refuses."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.kv.tree.cache_events import Event, Removed, Stored
from farspan.kv.tree.growing_arrays import GrowingArray
from farspan.kv.tree.radix import Location, RadixError, RadixTree, SecondaryPages
from farspan.kv.tree.token_ids import as_int32, common_prefix
from prefix_model import Indexer, content


def ids(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.int32)


# Growth


def test_a_prompt_stored_chunk_by_chunk_is_one_node() -> None:
    tree = RadixTree(1)
    tokens = ids(0, 300_000) % 1000
    cursor = tree.insert(tokens[:8192], ids(0, 8192)).cursor
    tree.lock(cursor)
    for start in range(8192, len(tokens), 8192):
        part = tokens[start : start + 8192]
        assert tree.extend(cursor, part, ids(start, len(part))).existing == 0
    tree.check_integrity()
    found = tree.match(tokens)
    assert tree.statistics().nodes == 1
    assert found.length == 300_000
    assert np.array_equal(found.pages, ids(0, 300_000))
    assert np.array_equal(tree.tokens(cursor), tokens)


@pytest.mark.parametrize("page_size", [1, 64])
def test_storing_chunk_by_chunk_keeps_little_more_than_tokens_and_indices(page_size: int) -> None:
    tree = RadixTree(page_size)
    total, chunk = 1_000_000 // page_size * page_size, 8192
    tokens, pages = ids(0, total), ids(0, total // page_size)
    cursor = tree.match(tokens).cursor
    tracemalloc.start()
    try:
        for start in range(0, total, chunk):
            stop = min(total, start + chunk)
            tree.extend(cursor, tokens[start:stop], pages[start // page_size : stop // page_size])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    payload = 4 * (len(tokens) + len(pages))
    assert payload <= kept <= 1.2 * payload
    assert payload <= tree.statistics().nbytes <= 1.2 * payload


def test_decoding_token_by_token_keeps_little_spare_room() -> None:
    tree = RadixTree(1)
    cursor = tree.match([1]).cursor
    for step in range(3000):
        cursor = tree.extend(cursor, [step % 7], [step]).cursor
    assert tree.statistics().nbytes <= 1.2 * 8 * 3000
    assert tree.match(ids(0, 3000) % 7).length == 3000
    tree.check_integrity()


def test_growth_does_not_change_what_a_match_returned() -> None:
    tree = RadixTree(1)
    cursor = tree.insert([1, 2, 3], [10, 11, 12]).cursor
    found = tree.match([1, 2, 3, 4])
    tree.extend(cursor, [4] * 100, ids(13, 100))
    assert found.pages.tolist() == [10, 11, 12]


def test_a_sequence_grows_on_after_others_split_its_node() -> None:
    tree = RadixTree(2)
    cursor = tree.insert([1, 2, 3, 4, 5, 6], [0, 1, 2]).cursor
    tree.insert([1, 2, 9, 9], [0, 50])
    tree.insert([1, 2, 3, 4, 8, 8], [0, 1, 60])
    assert tree.extend(cursor, [7, 7], [3]).existing == 0
    assert tree.match([1, 2, 3, 4, 5, 6, 7, 7]).pages.tolist() == [0, 1, 2, 3]
    assert tree.tokens(cursor).tolist() == [1, 2, 3, 4, 5, 6, 7, 7]
    tree.check_integrity()


def test_growth_beyond_anothers_lock_leaves_the_lock_where_it_was() -> None:
    tree = RadixTree(1)
    first = tree.insert([1, 2, 3], [0, 1, 2]).cursor
    second = tree.match([1, 2, 3]).cursor
    tree.lock(first)
    tree.lock(second)
    tree.extend(first, [4, 5], [3, 4])
    tree.unlock(first)
    assert tree.evictable() == 2
    assert [v.pages.tolist() for v in tree.victims(0, 10)] == [[3, 4]]
    tree.unlock(second)
    assert tree.evictable() == 5
    tree.check_integrity()


def test_the_same_continuation_stored_twice_names_the_pages_to_use() -> None:
    tree = RadixTree(1)
    one, two = tree.insert([1], [0]).cursor, tree.match([1]).cursor
    tree.lock(two)
    tree.extend(one, [2, 3, 4], [1, 2, 3])
    result = tree.extend(two, [2, 3, 5], [7, 8, 9])
    assert result.existing == 2
    assert np.concatenate(result.existing_pages).tolist() == [1, 2]
    assert tree.match([1, 2, 3, 5]).pages.tolist() == [0, 1, 2, 9]
    assert tree.evictable() == 1, "the lock moved to the new end"
    tree.check_integrity()


@settings(max_examples=40)
@given(
    st.integers(1, 70),
    st.lists(st.integers(1, 5000), min_size=1, max_size=12),
    st.lists(st.integers(0, 10**6), max_size=6),
    st.sampled_from([64, 1024, 65536]),
)
def test_any_page_size_any_chunks_any_branches(
    page_size: int, chunks: list[int], branches: list[int], block: int
) -> None:
    """Sequences long enough to span many blocks, branching anywhere, come back whole."""
    tree = RadixTree(page_size, block_values=block)
    pages_in = [max(1, chunk // page_size) for chunk in chunks]
    total = sum(pages_in)
    tokens = np.random.default_rng(total).integers(0, 3, total * page_size, dtype=np.int32)
    cursor, done = tree.match(tokens).cursor, 0
    for count in pages_in:
        part = tokens[done * page_size : (done + count) * page_size]
        cursor = tree.extend(cursor, part, ids(done, count)).cursor
        done += count
    fresh = total
    for branch in branches:
        at = branch % len(tokens)
        other = np.concatenate([tokens[:at], [9], tokens[: page_size + 3]]).astype(np.int32)
        whole = len(other) // page_size
        result = tree.insert(other, ids(fresh, whole))
        assert (
            result.existing == tree.page_size * (result.existing // page_size) >= at // page_size * page_size
        )
        fresh += whole
        tree.check_integrity()
        assert tree.match(other).length == whole * page_size
    found = tree.match(tokens)
    assert np.array_equal(found.pages, ids(0, total))
    assert np.array_equal(tree.tokens(cursor), tokens)


# Eviction


def evict(tree: RadixTree, pages: int, **options) -> list[int]:
    victims = tree.victims(0, pages, **options)
    gone = [page for victim in victims for page in victim.pages.tolist()]
    for victim in victims:
        tree.remove(victim)
    tree.check_integrity()
    return gone


def test_the_least_recently_used_leaf_goes_first_and_its_parent_after_its_children() -> None:
    tree = RadixTree(1)
    tree.insert([1, 2, 3], [0, 1, 2])
    tree.insert([1, 2, 4], [0, 1, 3])
    tree.insert([5, 6], [4, 5])
    tree.match([1, 2, 3])
    assert evict(tree, 1) == [3]
    assert evict(tree, 2) == [4, 5]
    assert evict(tree, 9) == [2, 0, 1]
    assert not list(tree.nodes())


def test_only_as_much_of_a_long_sequence_goes_as_is_wanted_from_its_end() -> None:
    tree = RadixTree(4)
    tokens = ids(0, 4000)
    tree.insert(tokens, ids(0, 1000))
    assert evict(tree, 10) == list(range(990, 1000))
    assert tree.match(tokens).length == 3960


def test_the_least_recently_used_goes_first_however_often_it_was() -> None:
    tree = RadixTree(1)
    tree.insert([1], [0])
    tree.insert([2], [1])
    tree.match([1])
    tree.match([1])
    tree.match([2])
    assert evict(tree, 1) == [0]


def test_among_nearly_equally_old_ones_those_that_help_most_go_first() -> None:
    tree = RadixTree(1)
    for index in range(20):
        tree.insert([100 + index], [index])
    for index in range(10):  # now far younger than the rest
        tree.match([100 + index])
    for _ in range(60):
        tree.match([1])
    wanted = tree.victims(0, 3, prefer=lambda pages: pages == 17)
    assert wanted[0].pages.tolist() == [17]
    assert [v.pages.tolist() for v in tree.victims(0, 3)] == [[10], [11], [12]]
    young = tree.victims(0, 1, prefer=lambda pages: pages == 9)
    assert young[0].pages.tolist() != [9], "age comes first"


def test_a_victim_that_was_used_since_is_refused() -> None:
    tree = RadixTree(1)
    cursor = tree.insert([1, 2, 3], [0, 1, 2]).cursor
    (victim,) = tree.victims(0, 2)
    tree.lock(cursor)
    with pytest.raises(RadixError, match="choose victims again"):
        tree.remove(victim)
    tree.unlock(cursor)
    tree.extend(cursor, [4], [3])
    with pytest.raises(RadixError, match="choose victims again"):
        tree.demote(victim, [0, 1])
    tree.check_integrity()


def test_choosing_victims_touches_few_of_many() -> None:
    """Fifty calls on three thousand leaves: each asks about a window of them."""
    tree = RadixTree(1)
    for index in range(3_000):
        tree.insert([index, 1], [2 * index, 2 * index + 1])
    calls = 0

    def prefer(pages: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return pages

    for _ in range(50):
        for victim in tree.victims(0, 2, prefer=prefer):
            tree.remove(victim)
    assert calls <= 50 * 33
    tree.check_integrity()


# Host tier


def test_the_host_tier_keeps_tokens_and_comes_back() -> None:
    tree = RadixTree(1)
    tokens = [1, 2, 3, 4]
    tree.insert(tokens, [10, 11, 12, 13])
    (victim,) = tree.victims(0, 2)
    assert tree.demote(victim, [0, 1]).tolist() == [12, 13]
    found = tree.match(tokens)
    assert (found.length, found.host_length) == (2, 2)
    assert found.host_pages.tolist() == [0, 1]
    tree.lock(found.host_cursor)
    assert not tree.victims(0, 9, location=Location.HOST)
    assert tree.restore(found.host_cursor, [20, 21]).tolist() == [0, 1]
    assert tree.match(tokens).pages.tolist() == [10, 11, 20, 21]
    tree.unlock(found.host_cursor)
    tree.check_integrity()


def test_removing_what_is_on_the_device_takes_what_hangs_from_it_on_the_host() -> None:
    tree = RadixTree(1, kinds=2)
    cursor = tree.insert([1, 2, 3], [10, 11, 12]).cursor
    tree.attach(cursor, 1, SecondaryPages(2, np.array([70], dtype=np.int32)))
    tree.demote(tree.victims(0, 1)[0], [5])
    released = tree.remove(tree.victims(0, 2)[0])
    assert released.of().tolist() == [10, 11]
    assert released.of(0, Location.HOST).tolist() == [5]
    assert released.of(1).tolist() == [70]
    assert not content(tree)


def test_a_longer_hit_in_host_memory_is_filled_by_an_insertion() -> None:
    tree = RadixTree(1)
    tree.insert([1, 2, 3, 4], [10, 11, 12, 13])
    tree.demote(tree.victims(0, 3)[0], [0, 1, 2])
    result = tree.insert([1, 2, 3, 9], [20, 21, 22, 23])
    assert result.existing == 1
    assert result.host_pages.tolist() == [0, 1]
    assert tree.match([1, 2, 3, 4]).pages.tolist() == [10, 21, 22]
    assert tree.match([1, 2, 3, 4]).host_pages.tolist() == [2]
    tree.check_integrity()


# Secondary kinds


def test_spans_follow_splits_and_are_cut_to_a_match() -> None:
    tree = RadixTree(1, kinds=2)
    cursor = tree.insert([1, 2, 3, 4, 5, 6], ids(0, 6)).cursor
    assert not len(tree.attach(cursor, 1, SecondaryPages(2, ids(100, 4))))
    tree.insert([1, 2, 3, 9], ids(10, 4))
    assert [(s.start, s.pages.tolist()) for s in tree.match([1, 2, 3, 4, 5]).secondary(1)] == [
        (2, [100]),
        (3, [101, 102]),
    ]
    assert tree.attach(cursor, 1, SecondaryPages(1, ids(200, 3))).tolist() == [201, 202]
    assert tree.detach(cursor, 1, 0, 3).tolist() == [200, 100]
    assert tree.held(1) == 3
    (victim,) = tree.victims(1, 1)
    assert tree.drop_secondary(victim).tolist() == [101, 102, 103]
    tree.check_integrity()


# Events


def test_events_name_prefixes_as_any_process_would() -> None:
    heard: list[Event] = []
    tree = RadixTree(2, events=heard.append)
    tree.insert([1, 2, 3, 4], [0, 1], b"tenant")
    tree.insert([1, 2, 9, 9], [0, 2], b"tenant")
    first, second = heard
    assert isinstance(first, Stored)
    assert isinstance(second, Stored)
    assert first.parent is None
    before = hashlib.blake2b(b"tenant", digest_size=8, person=b"namespace").digest()
    for page, digest in zip(([1, 2], [3, 4]), first.hashes.tolist(), strict=True):
        before = hashlib.blake2b(before + np.array(page, "<i4").tobytes(), digest_size=8).digest()
        assert digest == int.from_bytes(before, "little")
    assert second.parent == first.hashes[0]
    assert second.tokens.tolist() == [9, 9]
    tree.remove(tree.victims(0, 1)[0])
    assert isinstance(heard[2], Removed)
    assert heard[2].hashes.tolist() == [first.hashes[1]]


def test_no_listener_keeps_no_hashes() -> None:
    tree = RadixTree(1)
    tree.insert([1, 2], [0, 1])
    assert [node.hashes for node in tree.nodes()] == [None]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.lists(st.integers(1, 2), max_size=9), st.integers(0, 4)), max_size=12))
def test_replaying_events_rebuilds_the_same_tree(steps: list[tuple[list[int], int]]) -> None:
    """What an indexer followed, inserted into another tree, matches exactly what the first one matches."""
    indexer = Indexer()
    tree, fresh = RadixTree(2, events=indexer), 0
    for tokens, gone in steps:
        tree.insert(tokens, ids(fresh, len(tokens) // 2))
        fresh += len(tokens) // 2
        for victim in tree.victims(0, gone):
            tree.remove(victim)
    rebuilt = RadixTree(2)
    for number, ((name, tokens), _) in enumerate(sorted(indexer.stored)):
        rebuilt.insert(tokens, ids(1000 * number, len(tokens) // 2), name)
    assert set(content(rebuilt)) == set(content(tree))


# What it takes and refuses


def test_namespaces_share_nothing() -> None:
    tree = RadixTree(1)
    tree.insert([1, 2], [0, 1], b"a")
    assert tree.match([1, 2]).length == 0
    assert tree.match([1, 2], b"b").length == 0
    assert tree.match([1, 2], b"a").length == 2
    assert tree.statistics().namespaces == 1, "asking does not enter a namespace"


@pytest.mark.parametrize("values", [[2**31], np.array([1.5]), np.array([[1]]), np.array([2**40])])
def test_values_that_are_no_int32_are_refused(values) -> None:
    with pytest.raises(InputError):
        as_int32(values, "token ids")


def test_int32_is_taken_as_it_is_and_the_rest_is_converted_once() -> None:
    array = ids(0, 5)
    assert as_int32(array, "x") is array
    assert as_int32(array.astype(np.int64), "x").dtype == np.int32
    assert as_int32(range(3), "x").tolist() == [0, 1, 2]
    assert as_int32([], "x").dtype == np.int32


def test_wrong_numbers_of_pages_are_refused() -> None:
    tree = RadixTree(4)
    cursor = tree.insert(range(9), [0, 1]).cursor
    assert cursor.position == 8
    with pytest.raises(InputError, match="not 2 pages of 4"):
        tree.extend(cursor, range(9), [2, 3])
    with pytest.raises(InputError, match="no page border"):
        tree.back(cursor, 3)
    with pytest.raises(InputError, match="none is 1"):
        tree.victims(1, 1)
    with pytest.raises(InputError):
        RadixTree(0)
    tree.check_integrity()


def test_an_evicted_cursor_is_refused() -> None:
    tree = RadixTree(1)
    cursor = tree.insert([1, 2, 3], [0, 1, 2]).cursor
    tree.remove(tree.victims(0, 1)[0])
    tree.insert([1, 2, 3], [0, 1, 9])
    with pytest.raises(RadixError, match="evicted"):
        tree.extend(cursor, [4], [3])
    assert tree.back(cursor, 2).position == 2


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_common_prefix(left: list[int], right: list[int]) -> None:
    expected = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
    assert common_prefix(as_int32(left, "x"), as_int32(right, "x")) == expected


@pytest.mark.parametrize("at", [0, 1, 2047, 2048, 16_383, 200_000, 299_999])
def test_common_prefix_of_long_arrays(at: int) -> None:
    left = ids(0, 300_000)
    right = left.copy()
    right[at] = -1
    assert common_prefix(left, right) == at


def test_a_cut_column_holds_on_to_nothing_of_its_other_half() -> None:
    column = GrowingArray(3, 2, 10)
    column.append(ids(0, 200))
    head = column.cut(57)
    assert (head.first, head.end, column.first, column.end) == (3, 57, 57, 103)
    assert head.gather(3, 57).tolist() == list(range(108))
    assert column.gather(57, 103).tolist() == list(range(108, 200))
    head.check_integrity()
    column.check_integrity()
    head.append(ids(500, 4))
    assert head.gather(56, 59).tolist() == [106, 107, 500, 501, 502, 503]
    assert column.gather(57, 58).tolist() == [108, 109]
