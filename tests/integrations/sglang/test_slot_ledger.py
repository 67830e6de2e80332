"""Slots of a KV pool in pages: what is available has memory, and none is lost or had twice. No SGLang is needed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool

torch = pytest.importorskip("torch")

from farspan.integrations.sglang.slot_ledger import SlotLedger  # noqa: E402 it imports torch

ROW = 64  # bytes of a token in a layer


class Neighbour:
    """Takes memory from the driver, and gives it back."""

    def __init__(self, driver: HostDriver) -> None:
        self._driver = driver
        self._create = driver._create
        driver._create = self._refusing  # type: ignore[method-assign]
        self.busy = False

    def _refusing(self, *arguments: Any) -> Any:
        if self.busy:
            raise NoRoomError("the neighbour has it")
        return self._create(*arguments)


def ledger_of(page: int, pages: int) -> tuple[SlotLedger, Neighbour]:
    driver = HostDriver()
    segments = SegmentPool(driver, 4096, quiet_s=0.0)
    ledger = SlotLedger(PagePool(segments, [ROW] * 2, page, pages + 1), pages * page, "cpu")
    ledger.reset()
    return ledger, Neighbour(driver)


@pytest.mark.parametrize("page", [1, 16, 64, 128])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_page_is_free_or_somebodys_whatever_is_taken_given_and_refused(page: int, seed: int) -> None:
    """With pages of one token, several in a segment, exactly one, and one that takes two segments."""
    chance = random.Random(seed)
    ledger, neighbour = ledger_of(page, 300)
    held: list[int] = []
    refused = 0
    for _ in range(400):
        match chance.random():
            case what if what < 0.4:
                count = chance.randint(0, 60)
                taken = ledger.take(count)
                refused += taken is None
                if taken is not None:
                    pages = taken.tolist()
                    assert len(pages) == count
                    assert not set(pages) & set(held)
                    held += pages
            case what if what < 0.7 and held:
                chance.shuffle(held)
                count = chance.randint(1, len(held))
                ledger.give(torch.tensor(held[:count]))
                del held[:count]
            case what if what < 0.9:
                tokens = chance.randint(0, 100 * page)
                ledger.secure(tokens)
                available = ledger.available
                if available >= tokens:  # then it is there, whatever the neighbour takes now
                    neighbour.busy = True
                    taken = ledger.take(-(-tokens // page))
                    assert taken is not None
                    held += taken.tolist()
            case _:
                neighbour.busy = not neighbour.busy
                ledger.pages.tick()
        assert 0 not in held
        assert ledger.used == len(held) * page
        assert ledger.available % page == 0
        assert ledger.mapped >= ledger.used + ledger.available
        assert sorted([*held, *ledger.free_pages().tolist()]) == list(range(1, 301))
        ledger.counts_slots = True
        assert ledger.available == ledger.size - len(held) * page
        ledger.counts_slots = False
        ledger.pages.check_integrity()
    assert refused > 0
    ledger.reset()
    assert ledger.used == 0
    assert ledger.segment_tokens == max(page, 4096 // ROW)
    assert ledger.token_bytes == 2 * ROW


def test_pressure_is_of_slots() -> None:
    ledger, _ = ledger_of(16, 20)  # four pages a segment, page 0 in the first
    taken = ledger.take(8)
    assert taken is not None
    assert taken.tolist() == list(range(1, 9))
    slots = np.array([16, 4 * 16, 4 * 16 + 15, 8 * 16 + 3])
    first, full, same, alone = ledger.pressure(slots).tolist()
    assert first == full == same == 0
    assert alone == 1
