"""The linear tree by itself: random sequences against a plain model of a prefix tree, and what goes first."""

from __future__ import annotations

import random
from array import array
from typing import Any

import numpy as np
import pytest
import torch

from farspan.errors import KVError
from farspan.integrations.sglang.prefix_tree.linear_tree import LinearTree
from farspan.integrations.sglang.prefix_tree.prefix_rows import grown_prefix, token_array, tokens_between
from farspan.integrations.sglang.prefix_tree.stretch import Place, join
from farspan.integrations.sglang.prefix_tree.tree_checks import check_tree_counts, check_tree_slots


class Slots:
    """An owner of slots that only counts."""

    prefers = False

    def __init__(self) -> None:
        self.next = 1
        self.held: set[int] = set()
        self.window: set[int] = set()

    def alloc(self, count: int, dead: int = 0) -> torch.Tensor:
        """Slots, all but the first `dead` with something of window layers."""
        slots = range(self.next, self.next + count)
        self.next += count
        self.held.update(slots)
        self.window.update(slots[dead:])
        return torch.tensor(slots, dtype=torch.int32)

    def free(self, slots: torch.Tensor) -> None:
        self.free_window(slots)
        self.free_full(slots)

    def free_full(self, slots: torch.Tensor) -> None:
        assert not self.window & set(slots.tolist())
        for slot in slots.tolist():
            self.held.remove(slot)

    def free_window(self, slots: torch.Tensor) -> None:
        for slot in slots.tolist():
            self.window.remove(slot)

    def move_window(self, kept: torch.Tensor, given: torch.Tensor) -> None:
        assert not self.window & set(kept.tolist())
        self.free(given)
        self.window.update(kept.tolist())

    def pressure(self, slots: Any) -> Any:
        return np.zeros(len(slots))


def ids(*tokens: int) -> Any:
    return np.array(tokens, dtype=np.int64)


def store(
    tree: LinearTree, tokens: Any, *, chunk: int = 10**9, dead: int = 0, namespace: Any = None
) -> Place:
    """Match, lock and extend as a request does; return its locked place."""
    hit = tree.match(tokens, namespace)
    tree.lock(hit.place)
    place = hit.place
    while place.position < len(tokens):
        start = place.position
        stop = min(len(tokens), start + chunk)
        slots = tree.owner.alloc(stop - start, max(0, min(stop, dead) - start))  # type: ignore[attr-defined]
        place = tree.extend(place, tokens[start:stop], slots, dead, namespace).place
    return place


@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize("page", [1, 4])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_sequences_are_found_and_every_slot_is_accounted_for(
    seed: int, page: int, window: int | None
) -> None:
    chance = random.Random(seed)
    owner = Slots()
    owner.prefers = seed == 1
    tree = LinearTree(owner, page, window)
    sequences: list[Any] = [ids(*[chance.randint(0, 3) for _ in range(200)])]
    places: list[Place] = []
    for _ in range(250):
        if chance.random() < 0.6:
            kept = chance.choice(sequences)
            kept = kept[: chance.randint(0, len(kept))]
            tokens = np.concatenate(
                [kept, ids(*[chance.randint(0, 3) for _ in range(chance.randint(1, 80))])]
            )
            tokens = tokens[: len(tokens) // page * page]
            if len(tokens):
                sequences.append(tokens)
                dead = chance.choice([0, 0, len(tokens) // 2 // page * page]) if window else 0
                places.append(store(tree, tokens, chunk=chance.choice([4, 40, 400]), dead=dead))
        elif places and chance.random() < 0.7:
            place = places.pop(chance.randrange(len(places)))
            if chance.random() < 0.5:
                tree.unlock(place)
            else:
                tree.unlock_window(place)
                tree.unlock(place, window=False)
        else:
            held = tree.held - tree.locked
            freed, _ = tree.evict(want := chance.randint(1, 60), chance.randint(0, 30) if window else 0)
            assert freed >= min(want, held)
        check_tree_counts(tree)
        check_tree_slots(tree)
        assert set(join(tree.slots()).tolist() if tree.held else []) == owner.held
        if tree.windows:
            assert len(owner.window) == tree.windows.held
        for node in tree.nodes():
            if owner.prefers:
                on_device = join(node.slots.views(node.start, node.end))
                assert node.slots.numbers(node.start, node.end).tolist() == on_device.tolist()
            locks = [range(low, high) for low, high in node.window_locks]
            used = {at for each in locks for at in each}
            assert node.window_locked == sum(len(used & {*range(s.start, s.stop)}) for s in node.spans)
        for place in places:
            assert place.resolve().end == place.position
    for place in places:
        tree.unlock(place)
    assert tree.locked == 0
    tree.evict(tree.held)
    assert not owner.held
    assert not list(tree.nodes())


def test_chunks_of_a_prompt_make_one_stretch_and_its_slots_stay_in_order() -> None:
    tree = LinearTree(Slots())
    tokens = ids(*range(1000))
    place = store(tree, tokens, chunk=64)
    assert len(list(tree.nodes())) == 1
    hit = tree.match(np.append(tokens, 7))
    assert hit.place.position == 1000
    assert join(hit.slots).tolist() == list(range(1, 1001))
    half = tree.match(tokens[:500])
    assert half.place.position == 500
    assert len(list(tree.nodes())) == 1  # a match cuts nothing, a lock does
    tree.lock(half.place)
    assert [(node.start, node.end) for node in tree.nodes()] == [(0, 500), (500, 1000)]
    tree.unlock(half.place)
    tree.unlock(place)


def test_a_prefix_needs_its_window() -> None:
    owner = Slots()
    tree = LinearTree(owner, window=16)
    tokens = ids(*range(100))
    tree.unlock(store(tree, tokens[:60]))
    tree.unlock(
        store(tree, tokens, dead=90)
    )  # tokens 60 to 90 have nothing in window layers, 10 do at the end
    assert tree.match(tokens).place.position == 60
    tree.unlock(
        store(tree, tokens)
    )  # computed again: window layers have them from now on, in the tree's slots
    assert tree.match(tokens).place.position == 100
    assert join(tree.match(tokens).slots).tolist() == list(range(1, 101))


def test_what_is_in_use_keeps_its_window_and_no_more() -> None:
    owner = Slots()
    tree = LinearTree(owner, window=16)
    place = store(tree, ids(*range(3000)), chunk=500)
    assert tree.evict(1) == (0, 0)
    assert tree.evict(0, 3000) == (0, 2984)
    assert tree.windows is not None
    assert tree.windows.held == tree.windows.locked == 16
    assert tree.match(ids(*range(3000))).place.position == 3000
    tree.unlock(place)
    assert tree.evict(0, 1) == (16, 16)  # a leaf without its last window is of no use


def test_the_least_recently_used_goes_first_from_its_end() -> None:
    owner = Slots()
    tree = LinearTree(owner)
    for start in (0, 10_000, 20_000):
        tree.unlock(store(tree, ids(*range(start, start + 5000))))
    tree.match(ids(*range(5000)))
    assert tree.evict(2000) == (2000, 0)
    assert tree.match(ids(*range(10_000, 15_000))).place.position == 3000
    assert tree.match(ids(*range(5000))).place.position == 5000


def test_of_nearly_equally_old_ones_the_allocator_chooses() -> None:
    class Choosy(Slots):
        prefers = True

        def pressure(self, slots: Any) -> Any:
            return ((slots > 100) & (slots <= 200)).astype(np.float64)

    tree = LinearTree(Choosy())
    for start in (0, 1000, 2000):
        tree.unlock(store(tree, ids(*range(start, start + 100))))
    for _ in range(100):
        tree.match(ids(5))
    tree.evict(1)
    found = [tree.match(ids(*range(start, start + 100))).place.position for start in (0, 1000, 2000)]
    assert found == [100, 0, 100]


def test_a_prefix_that_was_evicted_is_not_taken_for_another() -> None:
    tree = LinearTree(Slots())
    tree.unlock(store(tree, ids(*range(100))))
    hit = tree.match(ids(*range(100)))
    tree.evict(100)
    tree.unlock(store(tree, ids(*range(50), *range(500, 600))))
    with pytest.raises(KVError, match="used after it was evicted"):
        tree.lock(hit.place)


def test_namespaces_share_nothing() -> None:
    tree = LinearTree(Slots())
    tree.unlock(store(tree, ids(1, 2, 3), namespace="lora"))
    assert tree.match(ids(1, 2, 3)).place.position == 0
    assert tree.match(ids(1, 2, 3), "lora").place.position == 3


def test_token_ids_are_views_that_end_with_the_step() -> None:
    tokens = array("q", range(5))
    seen = token_array(tokens)
    assert seen.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(BufferError):
        tokens.append(5)
    del seen
    tokens.append(5)
    assert tokens_between(tokens, array("q", [9, 8]), 4, 7).tolist() == [4, 5, 9]
    assert len(token_array(array("q"))) == 0


def test_a_prefix_grows_without_being_copied() -> None:
    place = Place(0, LinearTree(Slots()).root().stretch)
    row = torch.arange(100, dtype=torch.int32)
    one = grown_prefix(place, torch.empty(0, dtype=torch.int64), row[:40], 0, 100)
    two = grown_prefix(place, one, row[40:90], 40, 100)
    assert two.tolist() == list(range(90))
    assert two.data_ptr() == one.data_ptr()
    more = grown_prefix(place, two, torch.arange(90, 200, dtype=torch.int32), 90, 100)
    assert more.tolist() == list(range(200))


def test_what_prompts_left_behind_in_window_layers_goes_before_any_end() -> None:
    tree = LinearTree(Slots(), window=24)
    prompts = [ids(*range(start, start + 6000)) for start in (0, 10_000, 20_000)]
    for prompt in prompts:
        tree.unlock(store(tree, prompt, chunk=256))
    assert tree.older_kind() == "window"
    behind = sum(span.stop - span.start for node in tree.nodes() for span in node.spans if span.last < 0)
    assert behind > 3 * 3500
    assert tree.left_behind
    assert tree.evict(0, behind) == (0, behind)
    assert not tree.left_behind
    for prompt in prompts:
        assert tree.match(prompt).place.position == 6000
        assert tree.match(prompt[:5000]).place.position == 5000, "and somewhat before its end"
        assert tree.match(prompt[:2000]).place.position == 0
    check_tree_counts(tree)


def test_the_kind_that_was_clearly_longer_unused_is_known() -> None:
    tree = LinearTree(Slots(), window=24)
    assert tree.older_kind() is None
    for start in (0, 1000):
        tree.unlock(store(tree, ids(*range(start, start + 100))))
    assert tree.older_kind() is None, "a prefix is as old as what window layers have of it"
    place = store(tree, ids(*range(1000)), chunk=100)  # goes on from the first, whose end was in its middle
    tree.unlock_window(place)
    for _ in range(50):
        tree.match(ids(*range(1000, 1100)))
    assert tree.older_kind() == "window", "what a running prompt has locked is no leaf that could go"
    tree.unlock(place, window=False)
    check_tree_counts(tree)
