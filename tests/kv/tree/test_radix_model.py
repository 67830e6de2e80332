"""The prefix tree against a plain-dict model, under any order of operations."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from farspan.kv.tree.cache_events import Location
from farspan.kv.tree.radix import Cursor, RadixError, RadixTree, SecondaryPages
from prefix_model import Held, Indexer, Prefix, PrefixModel, content, locked

KINDS = 3
# Two token ids and short sequences: nearly every insertion shares a prefix with another and splits it.
TOKENS = st.lists(st.sampled_from([1, 1, 2]), max_size=14).map(tuple)
NAMES = st.sampled_from([b"", b"", b"tenant"])
DEVICE, HOST = Location.DEVICE, Location.HOST


class PrefixTreeMachine(RuleBasedStateMachine):
    @initialize(
        page_size=st.sampled_from([1, 1, 2, 3]),
        events=st.booleans(),
        block=st.sampled_from([1, 4, 65536]),
    )
    def start(self, page_size: int, events: bool, block: int) -> None:
        self.size = page_size
        self.indexer = Indexer() if events else None
        self.tree = RadixTree(page_size, KINDS, events=self.indexer, block_values=block)
        self.model = PrefixModel(page_size)
        self.numbers = count(100)
        self.cursors: list[tuple[Cursor, Prefix]] = []
        self.lost: set[int] = set()  # cursors whose prefix was evicted since they were made

    def ids(self, number: int) -> np.ndarray:
        return np.array([next(self.numbers) for _ in range(number)], dtype=np.int32)

    def pick(self, data: st.DataObject) -> tuple[Cursor, Prefix]:
        return data.draw(st.sampled_from(self.cursors))

    # Storing

    def stored(self, name: bytes, before: tuple, tokens: tuple, pages: np.ndarray, result) -> None:
        """Check an insertion's answer behind `before` and bring the model up to date."""
        skip = len(before) // self.size
        ours = self.model.prefixes(name, before + tokens)[skip:]
        known = [self.model.held.get(prefix) for prefix in ours]
        existing = [h.page for h in known if h and h.location is DEVICE]
        hosted = [h.page for h in known if h and h.location is HOST]
        assert result.existing == len(existing) * self.size
        assert [p for array in result.existing_pages for p in array.tolist()] == existing
        assert result.host_pages.tolist() == hosted
        for prefix, held, page in zip(ours, known, pages.tolist(), strict=True):
            if held is None:
                self.model.held[prefix] = Held(DEVICE, page)
            elif held.location is HOST:
                held.location, held.page = DEVICE, page
        assert result.cursor.position == len(before + tokens) // self.size * self.size

    @rule(tokens=TOKENS, name=NAMES)
    def insert(self, tokens: tuple, name: bytes) -> None:
        tokens = tokens[: len(tokens) // self.size * self.size]
        pages = self.ids(len(tokens) // self.size)
        result = self.tree.insert(np.array(tokens, dtype=np.int64), pages, name)
        self.stored(name, (), tokens, pages, result)
        self.cursors.append((result.cursor, (name, tokens)))

    @rule(tokens=TOKENS, name=NAMES)
    def match(self, tokens: tuple, name: bytes) -> None:
        result = self.tree.match(list(tokens), name)
        device = self.model.matched(name, tokens, DEVICE)
        every = self.model.matched(name, tokens)
        assert result.length == len(device) * self.size
        assert result.pages.tolist() == [self.model.held[p].page for p in device]
        assert result.host_length == (len(every) - len(device)) * self.size
        assert result.host_pages.tolist() == [self.model.held[p].page for p in every[len(device) :]]
        for kind in range(1, KINDS):
            for location in Location:
                found = {
                    s.start + i: p
                    for s in result.secondary(kind, location)
                    for i, p in enumerate(s.pages.tolist())
                }
                assert found == {
                    i: self.model.held[p].secondary[kind][1]
                    for i, p in enumerate(every)
                    if self.model.held[p].secondary.get(kind, (None,))[0] is location
                }
        self.cursors.append((result.cursor, device[-1] if device else (name, ())))
        self.cursors.append((result.host_cursor, every[-1] if every else (name, ())))

    @precondition(lambda self: self.cursors)
    @rule(data=st.data(), tokens=TOKENS)
    def extend(self, data: st.DataObject, tokens: tuple) -> None:
        cursor, (name, before) = self.pick(data)
        tokens = tokens[: len(tokens) // self.size * self.size]
        pages = self.ids(len(tokens) // self.size)
        on_device = len(self.model.matched(name, before, DEVICE)) == len(before) // self.size
        try:
            result = self.tree.extend(cursor, tokens, pages)
        except RadixError:
            assert not on_device or (not cursor.locks and id(cursor) in self.lost)
            return
        assert on_device
        assert result.cursor is cursor
        self.stored(name, before, tokens, pages, result)
        self.cursors.remove((cursor, (name, before)))
        self.cursors.append((cursor, (name, before + tokens)))
        assert tuple(self.tree.tokens(cursor).tolist()) == before + tokens

    # Cursors and locks

    @precondition(lambda self: self.cursors)
    @rule(data=st.data())
    def lock(self, data: st.DataObject) -> None:
        cursor, _ = self.pick(data)
        try:
            self.tree.lock(cursor)
        except RadixError:
            assert id(cursor) in self.lost

    @precondition(lambda self: any(cursor.locks for cursor, _ in self.cursors))
    @rule(data=st.data())
    def unlock(self, data: st.DataObject) -> None:
        cursor, _ = data.draw(st.sampled_from([each for each in self.cursors if each[0].locks]))
        self.tree.unlock(cursor)

    @precondition(lambda self: self.cursors)
    @rule(data=st.data())
    def back(self, data: st.DataObject) -> None:
        cursor, (name, tokens) = self.pick(data)
        position = data.draw(st.integers(0, len(tokens) // self.size)) * self.size
        if id(cursor) not in self.lost:
            self.cursors.append((self.tree.back(cursor, position), (name, tokens[:position])))

    # Secondary kinds

    @precondition(lambda self: self.cursors)
    @rule(data=st.data(), kind=st.integers(1, KINDS - 1), give=st.booleans())
    def spans(self, data: st.DataObject, kind: int, give: bool) -> None:
        cursor, (name, tokens) = self.pick(data)
        if id(cursor) in self.lost:
            return
        prefixes = self.model.prefixes(name, tokens)
        start = data.draw(st.integers(0, len(prefixes)))
        stop = data.draw(st.integers(start, len(prefixes)))
        inside = [self.model.held[p] for p in prefixes[start:stop]]
        if give:
            pages = self.ids(stop - start)
            refused = self.tree.attach(cursor, kind, SecondaryPages(start, pages))
            assert refused.tolist() == [
                p for p, h in zip(pages.tolist(), inside, strict=True) if kind in h.secondary
            ]
            for held, page in zip(inside, pages.tolist(), strict=True):
                held.secondary.setdefault(kind, (DEVICE, page))
        else:
            location = data.draw(st.sampled_from(Location))
            taken = self.tree.detach(cursor, kind, start, stop, location)
            there = [h for h in inside if h.secondary.get(kind, (None,))[0] is location]
            assert taken.tolist() == [h.secondary.pop(kind)[1] for h in there]

    @precondition(lambda self: self.cursors)
    @rule(data=st.data(), kind=st.integers(1, KINDS - 1))
    def restore_secondary(self, data: st.DataObject, kind: int) -> None:
        cursor, (name, tokens) = self.pick(data)
        if id(cursor) in self.lost:
            return
        prefixes = self.model.prefixes(name, tokens)
        hosted = [
            i for i, p in enumerate(prefixes) if self.model.held[p].secondary.get(kind, (None,))[0] is HOST
        ]
        if not hosted:
            return
        start = stop = data.draw(st.sampled_from(hosted))
        while stop in hosted:
            stop += 1
        pages = self.ids(stop - start)
        returned = self.tree.restore_secondary(cursor, kind, SecondaryPages(start, pages))
        held = [self.model.held[p] for p in prefixes[start:stop]]
        assert returned.tolist() == [h.secondary[kind][1] for h in held]
        for each, page in zip(held, pages.tolist(), strict=True):
            each.secondary[kind] = (DEVICE, page)

    # Eviction and the host tier

    @rule(
        data=st.data(),
        kind=st.sampled_from([0, 0, 1, 2]),
        pages=st.integers(1, 12),
        location=st.sampled_from([DEVICE, DEVICE, HOST]),
        prefer=st.booleans(),
    )
    def evict(self, data: st.DataObject, kind: int, pages: int, location: Location, prefer: bool) -> None:
        by_page = self.model.by_page(kind, location)
        kept = locked(self.cursors, self.model)
        free = [page for page, prefix in by_page.items() if prefix not in kept]
        assert self.tree.evictable(kind, location) == len(free)
        assert self.tree.held(kind, location) == len(by_page)
        victims = self.tree.victims(kind, pages, (lambda p: p % 7) if prefer else None, location)
        assert content(self.tree) == self.model.held, "choosing victims changed the tree"
        chosen = [page for victim in victims for page in victim.pages.tolist()]
        assert len(chosen) == len(set(chosen))
        assert set(chosen) <= set(free)
        assert len(chosen) >= min(pages, len(free))
        assert kind or len(chosen) <= pages
        for victim in victims:
            if location is DEVICE and data.draw(st.booleans()):
                hosted = self.ids(len(victim.pages))
                assert self.tree.demote(victim, hosted).tolist() == victim.pages.tolist()
                self.moved(kind, [by_page[page] for page in victim.pages.tolist()], hosted)
            elif kind:
                assert self.tree.drop_secondary(victim).tolist() == victim.pages.tolist()
                for page in victim.pages.tolist():
                    del self.model.held[by_page[page]].secondary[kind]
            else:
                self.removed([by_page[page] for page in victim.pages.tolist()], victim)

    def moved(self, kind: int, prefixes: list[Prefix], hosted: np.ndarray) -> None:
        for prefix, page in zip(prefixes, hosted.tolist(), strict=True):
            held = self.model.held[prefix]
            if kind:
                held.secondary[kind] = (HOST, page)
            else:
                held.location, held.page = HOST, page

    def removed(self, prefixes: list[Prefix], victim) -> None:
        gone = dict.fromkeys(prefixes)
        for prefix in prefixes:
            gone.update(dict.fromkeys(self.model.below(prefix)))
        expected: dict = {}
        for prefix in gone:
            held = self.model.held.pop(prefix)
            assert prefix in prefixes or held.location is HOST
            expected.setdefault((0, held.location), []).append(held.page)
            for kind, (location, page) in held.secondary.items():
                expected.setdefault((kind, location), []).append(page)
        released = self.tree.remove(victim)
        found = {slot: sorted(array.tolist()) for slot, array in released.pages.items() if len(array)}
        assert found == {slot: sorted(pages) for slot, pages in expected.items()}
        self.lost |= {id(cursor) for cursor, prefix in self.cursors if prefix in gone}

    @precondition(lambda self: self.cursors)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        cursor, (name, tokens) = self.pick(data)
        if id(cursor) in self.lost:
            return
        hosted = [p for p in self.model.prefixes(name, tokens) if self.model.held[p].location is HOST]
        pages = self.ids(len(hosted))
        assert self.tree.restore(cursor, pages).tolist() == [self.model.held[p].page for p in hosted]
        for prefix, page in zip(hosted, pages.tolist(), strict=True):
            self.model.held[prefix].location, self.model.held[prefix].page = DEVICE, page

    # After every step

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "tree"):
            self.tree.check_integrity()
            assert content(self.tree) == self.model.held
            if self.indexer:
                assert self.indexer.stored == {(p, h.location) for p, h in self.model.held.items()}

    def teardown(self) -> None:
        """With every lock gone, all of it can be evicted, and nothing is left."""
        if not hasattr(self, "tree"):
            return
        for cursor, _ in self.cursors:
            while cursor.locks:
                self.tree.unlock(cursor)
        for location in Location:
            for victim in self.tree.victims(0, 10**9, location=location):
                self.tree.remove(victim)
        self.tree.check_integrity()
        assert not list(self.tree.nodes())
        assert not self.tree.statistics().namespaces
        assert not any(self.tree.held(kind, location) for kind in range(KINDS) for location in Location)
        assert self.indexer is None or not self.indexer.stored


PrefixTreeMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[*settings.default.suppress_health_check, HealthCheck.filter_too_much],
)
TestPrefixTree = PrefixTreeMachine.TestCase


def test_unlocking_what_is_not_locked_is_refused() -> None:
    tree = RadixTree(1)
    with pytest.raises(RadixError, match="not locked"):
        tree.unlock(tree.insert([1, 2], [0, 1]).cursor)
