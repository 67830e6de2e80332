"""Who has which slots of a KV pool, and which of the free ones have memory.

Slots are handed out in pages from the lowest up, so that those in use lie together and whole segments become free.
Which are free is known on the CPU; pages that come back are read from the GPU when the copy that was started then has
ended, without waiting, and count as available meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.integrations.sglang.host_copy import HostCopy
from farspan.kv.memory.page_refs import Pages
from farspan.kv.memory.pages import PagePool

# Seconds to go on trying to map memory, and between two tries.
_MAP_S, _MAP_AGAIN_S = 30.0, 0.002
# Numbers that are made at once, 8 bytes each.
_RUN = 16_384


class _Returned(NamedTuple):
    pages: HostCopy
    size: int
    turn: int


class SlotLedger:
    """The slots of one pool: who has which, and what is on its way back. Counts are tokens where not said otherwise.

    Args:
        pages: Of the pool; `reset`, which SGLang's allocators begin with, takes page 0.
        size: Slots SGLang counts, whole pages of them, without page 0.
        device: Where SGLang has its slot numbers.

    Attributes:
        counts_slots: `available` tells the slots that nobody has, with memory or without.
        kept: Available slots whose memory stays, see `keep`.
    """

    def __init__(self, pages: PagePool, size: int, device: str) -> None:
        self.pages = pages
        self.size = size
        self.counts_slots = False
        self.kept = 0
        self._page = pages.page_tokens
        self._device = torch.device(device)
        self._turn: int | None = None
        self._numbers = (0, torch.empty(0, dtype=torch.int64, device=self._device))  # a run, and its first
        self._returned: deque[_Returned] = deque()
        # Pages:
        self._returning = 0
        self._out = 0

    @property
    def available(self) -> int:
        """Slots that can be handed out: with memory, or, while slots are counted for leaks, all that nobody has."""
        if self.counts_slots:
            return self.size - self._out * self._page
        return (self.pages.free_pages + self._returning) * self._page

    @property
    def used(self) -> int:
        """Slots that somebody has, without page 0; what is on its way back counts."""
        return (self.pages.used - 1) * self._page

    @property
    def mapped(self) -> int:
        """Slots that have memory."""
        return self.pages.mapped_pages * self._page

    @property
    def mapped_stop(self) -> int:
        """The slot after the last that has memory."""
        return self.pages.backed_stop * self._page

    @property
    def segment_tokens(self) -> int:
        """Slots that get memory together."""
        return self.pages.pages_per_segment * self._page

    @property
    def may_grow(self) -> bool:
        """Whether there are slots without memory."""
        return self.pages.mapped_pages < self.pages.max_pages

    @property
    def token_bytes(self) -> float:
        """Bytes of a token in all layers of the pool."""
        return self.pages.segment_layer_bytes / self.segment_tokens

    def take(self, count: int) -> torch.Tensor | None:
        """Return `count` pages, the lowest, or None when there is no memory for them."""
        self.settle()
        while count > self.pages.free_pages and self._returned:
            self._book_first()
        taken = self.pages.alloc(count)
        if taken is None and count <= self.pages.free_pages:
            taken = self._alloc_mapped(count)
        if taken is None:
            return None
        self._out += count
        return self._on_device(taken)

    def give(self, pages: torch.Tensor) -> None:
        """Take pages back, none of them twice."""
        count = pages.numel()
        self._out -= count
        if self._device.type == "cpu":
            self.pages.free(pages.numpy().astype(np.int32))
            return
        self._returned.append(_Returned(HostCopy.of(pages), count, self._turn or 0))
        self._returning += count

    def begin_turn(self) -> None:
        """Book from now on what came back before the last turn, and not what happens to have arrived.

        What the ranks of a server book must be the same; after a whole turn its copy has ended on all of them.
        """
        self._turn = (self._turn or 0) + 1

    def settle(self, wait: bool = False) -> None:
        """Book what has come back; with `wait` all of it."""
        while self._returned:
            pages, _, turn = self._returned[0]
            due = pages.has_arrived if self._turn is None else turn < self._turn - 1
            if not due and not wait:
                return
            self._book_first()

    def secure(self, tokens: int) -> None:
        """Have memory for so many available slots, as far as there is room, and keep it until told otherwise."""
        self.settle()
        self.pages.secure(max(0, -(-tokens // self._page) - self._returning))
        self.keep(tokens)

    def keep(self, tokens: int) -> None:
        """Keep memory for so many available slots, or as many as there are, from now on."""
        self.kept = tokens
        self.pages.keep(-(-tokens // self._page))

    def reset(self) -> None:
        """Take all slots back but those of page 0, which is padding."""
        self.settle(wait=True)
        self.pages.free_all()
        padding = self.pages.alloc(1)
        assert padding is not None, "the first page has memory"
        assert int(padding[0]) == 0, "the first page is the lowest"
        self._out = 0

    def free_pages(self) -> torch.Tensor:
        """Return every page nobody has, with memory or without; changes nothing, so that any rank may ask."""
        free = np.ones(self.size // self._page + 1, np.bool_)
        free[self.pages.in_use()] = False
        for pages, _, _ in self._returned:
            free[pages.numbers()] = True
        return torch.from_numpy(np.flatnonzero(free)).to(self._device)

    def pressure(self, slots: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return, for each slot, 0 to 1: how much freeing it would help to empty its segment."""
        return self.pages.pressure((slots // self._page).astype(np.int32))

    def _book_first(self) -> None:
        """Book what came back first; waits until it has arrived."""
        pages, size, _ = self._returned.popleft()
        self._returning -= size
        self.pages.free(pages.numbers().astype(np.int32))

    def _alloc_mapped(self, count: int) -> Pages | None:
        """Try again to map memory that is there, which can lack only what the device maps it with.

        Who has these pages was admitted, and SGLang ends when there are none; the device may have some in a moment.
        """
        until = time.monotonic() + _MAP_S
        taken = None
        while taken is None and time.monotonic() < until:
            time.sleep(_MAP_AGAIN_S)
            taken = self.pages.alloc(count)
        return taken

    def _run(self, low: int, high: int) -> torch.Tensor:
        """Return [low, high) on the device, mostly as a part of what was made before: a step of decoding takes one."""
        first, numbers = self._numbers
        if low < first or high > first + len(numbers):
            first, numbers = (
                low,
                torch.arange(low, max(high, low + _RUN), dtype=torch.int64, device=self._device),
            )
            self._numbers = first, numbers
        return numbers[low - first : high - first]

    def _on_device(self, pages: Pages) -> torch.Tensor:
        if not len(pages):
            return torch.empty(0, dtype=torch.int64, device=self._device)
        low, high = int(pages[0]), int(pages[-1]) + 1
        if high - low == len(pages):
            return self._run(low, high)
        numbers = torch.empty(len(pages), dtype=torch.int64, pin_memory=self._device.type == "cuda")
        numbers.numpy()[:] = pages
        return numbers.to(self._device, non_blocking=True)
