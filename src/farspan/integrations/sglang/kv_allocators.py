"""SGLang's allocators of KV slots over elastic pools: what they say is available has memory.

Slots are handed out from the lowest up, so that those in use lie together and whole segments become free. Which are
free is known on the CPU; slots that come back are read from the GPU when the copy that was started then has ended,
without waiting, and count as available meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.errors import UnsupportedError
from farspan.integrations.sglang.adapters import LEAVE_POOLS
from farspan.integrations.sglang.free_groups import FreeGroups
from farspan.kv.memory.page_refs import Pages
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.slot_map import SlotMap

_ALLOCATORS = "sglang.srt.mem_cache.allocator"


class _Returned(NamedTuple):
    slots: torch.Tensor
    copied: Any  # an event
    turn: int


class SlotLedger:
    """The slots of one pool: who has which, and what is on its way back.

    Args:
        pages: Of the pool; `reset`, which SGLang's allocators begin with, takes page 0.
        size: Slots SGLang counts, without slot 0.
        device: Where SGLang has its slot numbers.
    """

    def __init__(self, pages: PagePool, size: int, device: str) -> None:
        self.pages = pages
        self.size = size
        self.counts_slots = False
        self._device = torch.device(device)
        self._turn: int | None = None
        self._returned: deque[_Returned] = deque()
        self._returning = 0
        self._out = 0

    @property
    def available(self) -> int:
        """Slots that can be handed out: with memory, or, while slots are counted for leaks, all that nobody has."""
        return self.size - self._out if self.counts_slots else self.pages.free_pages + self._returning

    def take(self, count: int) -> torch.Tensor | None:
        """Return `count` slots, the lowest, or None when there is no memory for them."""
        self.settle()
        if count > self.pages.free_pages and self._returning:
            self.settle(wait=True)
        taken = self.pages.alloc(count)
        if taken is None:
            return None
        self._out += count
        return self._on_device(taken)

    def give(self, slots: torch.Tensor) -> None:
        """Take slots back."""
        count = slots.numel()
        self._out -= count
        if self._device.type == "cpu":
            self.pages.free(slots.numpy().astype(np.int32))
            return
        host = torch.empty(count, dtype=slots.dtype, pin_memory=True)
        host.copy_(slots, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self._returned.append(_Returned(host, copied, self._turn or 0))
        self._returning += count

    def begin_turn(self) -> None:
        """Book from now on what came back before the last turn, and not what happens to have arrived.

        What the ranks of a server book must be the same; after a whole turn its copy has ended on all of them.
        """
        self._turn = (self._turn or 0) + 1

    def settle(self, wait: bool = False) -> None:
        """Book what has come back; with `wait` all of it."""
        while self._returned:
            slots, copied, turn = self._returned[0]
            due = copied.query() if self._turn is None else turn < self._turn - 1
            if not due and not wait:
                return
            copied.synchronize()
            self._returned.popleft()
            self._returning -= len(slots)
            self.pages.free(slots.numpy().astype(np.int32))

    def secure(self, count: int) -> None:
        """Have memory for `count` available slots, as far as there is room, and keep it until told otherwise."""
        self.settle()
        self.pages.secure(max(0, count - self._returning))
        self.pages.keep(count)

    def reset(self) -> None:
        """Take all slots back but slot 0, which is padding."""
        self.settle(wait=True)
        self.pages.free_all()
        padding = self.pages.alloc(1)
        assert padding is not None, "the first page has memory"
        assert int(padding[0]) == 0, "the first page is the lowest"
        self._out = 0

    def free_slots(self) -> torch.Tensor:
        """Return every slot nobody has, with memory or without; changes nothing, so that any rank may ask."""
        free = np.ones(self.size + 1, np.bool_)
        free[self.pages.in_use()] = False
        for slots, copied, _ in self._returned:
            copied.synchronize()
            free[slots.numpy()] = True
        return torch.from_numpy(np.flatnonzero(free)).to(self._device)

    def _on_device(self, slots: Pages) -> torch.Tensor:
        low, high = int(slots[0]), int(slots[-1]) + 1
        if high - low == len(slots):
            return torch.arange(low, high, dtype=torch.int64, device=self._device)
        numbers = torch.empty(len(slots), dtype=torch.int64, pin_memory=self._device.type == "cuda")
        numbers.numpy()[:] = slots
        return numbers.to(self._device, non_blocking=True)


def token_allocator(size: int, dtype: torch.dtype, device: str, pool: Any, groups: FreeGroups) -> Any:
    """Return SGLang's allocator of single slots over an elastic pool, whose version puts frees off as `groups` do."""
    base = import_module(f"{_ALLOCATORS}.token").TokenToKVPoolAllocator

    class ElasticTokenToKVPoolAllocator(base):  # type: ignore[misc, valid-type]
        """See `TokenToKVPoolAllocator`.

        Attributes:
            ledger: Which of its slots are free, and which of those have memory.
        """

        def __init__(self) -> None:
            self.ledger = SlotLedger(pool.elastic_pages, size, device)
            super().__init__(size, dtype, device, pool, False)

        @property
        def free_pages(self) -> torch.Tensor:
            """Every free slot: for SGLang's checks, which ask seldom."""
            return self.ledger.free_slots()

        @free_pages.setter
        def free_pages(self, _value: object) -> None:
            """Ignore what the base class begins with: it would be a list of all slots."""

        def available_size(self) -> int:
            """Return the slots that `alloc` can give, with memory."""
            return self.ledger.available

        def alloc(self, need_size: int) -> torch.Tensor | None:
            """Return slots, or None when there is no memory for them."""
            if not need_size:
                return torch.empty(0, dtype=torch.int64, device=device)
            return self.ledger.take(need_size)

        def free(self, free_index: torch.Tensor) -> None:
            """Take slots back, at the end of the group if one was begun."""
            if free_index.numel() and not groups.put_off(self, free_index):
                self.ledger.give(free_index)

        def clear(self) -> None:
            """Take all slots back."""
            self.ledger.reset()
            groups.begin(self)
            self.release_pages = None

        def merge_and_sort_free(self) -> None:
            """Do nothing: they are always sorted."""

        def pressure(self, indices: torch.Tensor) -> NDArray[np.float64]:
            """Return, for each slot, 0 to 1: how much freeing it would help to empty its segment."""
            return self.ledger.pages.pressure(indices.cpu().numpy())

        def backup_state(self) -> Any:
            """Refuse it."""
            raise UnsupportedError(
                "--radix-cache-backend farspan does not work with allocations that are taken back",
                LEAVE_POOLS,
            )

    return ElasticTokenToKVPoolAllocator()


def window_allocator(
    size: int, size_swa: int, dtype: torch.dtype, device: str, pool: Any, groups: FreeGroups
) -> Any:
    """Return SGLang's allocator of pairs of slots, full attention and window, over two elastic pools."""
    base = import_module(f"{_ALLOCATORS}.swa").SWATokenToKVPoolAllocator

    class ElasticSWATokenToKVPoolAllocator(base):  # type: ignore[misc, valid-type]
        """See `SWATokenToKVPoolAllocator`."""

        def __init__(self) -> None:
            # A pool of one slot with all that SGLang's has, and then the real ones.
            self.slot_map: SlotMap | None = None
            super().__init__(1, 1, 1, dtype, device, pool, False)
            self._size_full, self._size_swa = size, size_swa
            memory = pool.full_kv_pool.elastic_memory
            self.slot_map = SlotMap(memory.segments, size + 1, memory.wait)
            full = pool.full_kv_pool.elastic_pages
            self.slot_map.cover(full.backed_stop)
            full.cover_with(self.slot_map.cover)
            self.full_attn_allocator = token_allocator(size, dtype, device, pool.full_kv_pool, groups)
            self.swa_attn_allocator = token_allocator(size_swa, dtype, device, pool.swa_kv_pool, groups)
            self.full_to_swa_index_mapping = self.slot_map.tensor
            pool.register_mapping(self.full_to_swa_index_mapping)

        def clear(self) -> None:
            """Take all slots back."""
            self.swa_attn_allocator.clear()
            self.full_attn_allocator.clear()
            if self.slot_map is not None:
                self.slot_map.clear()
            groups.begin(self)

        def alloc(self, need_size: int) -> torch.Tensor | None:
            """Return slots of full attention, each with one of the window; None when there is no memory for them."""
            for one in (self.full_attn_allocator, self.swa_attn_allocator):
                if need_size > one.available_size():
                    one.ledger.secure(need_size)
            slots: torch.Tensor | None = super().alloc(need_size)
            return slots

        def pressure(self, indices: torch.Tensor) -> NDArray[np.float64]:
            """Return, for each slot of full attention, 0 to 1: how much freeing it would help to empty its segment."""
            found: NDArray[np.float64] = self.full_attn_allocator.pressure(indices)
            return found

    return ElasticSWATokenToKVPoolAllocator()


def ledgers(allocator: Any) -> list[SlotLedger]:
    """Return the ledger of a plain allocator, or those of full attention and window."""
    if hasattr(allocator, "ledger"):
        return [allocator.ledger]
    return [allocator.full_attn_allocator.ledger, allocator.swa_attn_allocator.ledger]


@contextmanager
def counting_slots(allocator: Any) -> Iterator[None]:
    """Have an allocator answer with the slots nobody has, memory or not, as SGLang's checks for leaks count."""
    both = ledgers(allocator)
    for one in both:
        one.counts_slots = True
    try:
        yield
    finally:
        for one in both:
            one.counts_slots = False
