"""A page table against a plain dict of position to slot."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from farspan.kv.sequence_pages import PageTable

PAGE = 4


class TableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = PageTable(PAGE, first_page=3)
        self.pages: dict[int, int] = {}  # page number to id
        self.next = 3

    @rule(ids=st.lists(st.integers(0, 40), max_size=8), sorted_=st.booleans())
    def append(self, ids: list[int], sorted_: bool) -> None:
        ids = sorted(ids) if sorted_ else ids
        self.table.append(np.array(ids, np.int32))
        for page in ids:
            self.pages[self.next] = page
            self.next += 1

    @rule(position=st.integers(0, 400))
    def drop(self, position: int) -> None:
        expected = [page for number, page in sorted(self.pages.items()) if (number + 1) * PAGE <= position]
        assert self.table.drop_before(position).tolist() == expected
        self.pages = {number: page for number, page in self.pages.items() if (number + 1) * PAGE > position}

    @precondition(lambda self: self.pages)
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted(self.pages)))
        count = data.draw(st.integers(1, self.next - start))
        ids = data.draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
        former = [self.pages[number] for number in range(start, start + count)]
        assert self.table.replace(start, np.array(ids, np.int32)).tolist() == former
        self.pages.update(zip(range(start, start + count), ids, strict=True))

    @precondition(lambda self: self.pages)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        first, last = min(self.pages) * PAGE, self.next * PAGE
        start = data.draw(st.integers(first, last))
        stop = data.draw(st.integers(start, last))
        found = [
            (position + i, slot + i)
            for position, slot, count in self.table.extents(start, stop)
            for i in range(count)
        ]
        assert found == [(p, self.pages[p // PAGE] * PAGE + p % PAGE) for p in range(start, stop)]

    @invariant()
    def agrees(self) -> None:
        self.table.check_integrity()
        assert self.table.held().tolist() == [page for _, page in sorted(self.pages.items())]
        assert self.table.stop_page == self.next
        assert self.table.last == (self.pages[self.next - 1] if self.pages else None)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=30)


def test_pages_in_a_row_are_one_extent() -> None:
    table = PageTable(16)
    for first in range(0, 6400, 64):
        table.append(np.arange(first, first + 64, dtype=np.int32))
    assert table.extents(5, 100_000) == [(5, 5, 99_995)]
