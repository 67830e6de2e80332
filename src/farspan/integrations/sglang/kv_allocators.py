"""SGLang's allocators of KV slots over elastic pools: what they say is available has memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.errors import UnsupportedError
from farspan.integrations.sglang.adapters import LEAVE_POOLS
from farspan.integrations.sglang.free_groups import FreeGroups
from farspan.integrations.sglang.slot_ledger import SlotLedger
from farspan.kv.memory.slot_map import SlotMap

_ALLOCATORS = "sglang.srt.mem_cache.allocator"


def slot_allocator(
    size: int, page: int, dtype: torch.dtype, device: str, pool: Any, groups: FreeGroups
) -> Any:
    """Return SGLang's allocator of slots over an elastic pool.

    Args:
        size: Slots SGLang counts.
        page: Slots of a page; requests have whole ones, where SGLang has another allocator than for single slots.
        dtype: Of the pool.
        device: Where SGLang has its slot numbers.
        pool: Elastic.
        groups: How the version's allocators put off what is freed in a group.
    """
    base = _single_slots() if page == 1 else _pages()

    class ElasticTokenToKVPoolAllocator(base):  # type: ignore[misc, valid-type]
        """See `TokenToKVPoolAllocator` and `PagedTokenToKVPoolAllocator`.

        Attributes:
            ledger: Which of its slots are free, and which of those have memory.
        """

        def __init__(self) -> None:
            self.ledger = SlotLedger(pool.elastic_pages, size, device)
            self.handed_out: torch.Tensor | None = None
            sizes = (size,) if page == 1 else (size, page)
            super().__init__(*sizes, dtype, device, pool, False)

        @property
        def free_pages(self) -> torch.Tensor:
            """Every free page, for SGLang's checks, which ask seldom; while pages are handed out those."""
            return self.ledger.free_pages() if self.handed_out is None else self.handed_out

        @free_pages.setter
        def free_pages(self, _value: object) -> None:
            """Ignore what the base class begins with, a list of all pages, and what it leaves of those handed out."""

        def available_size(self) -> int:
            """Return the slots that `alloc` can give, with memory."""
            return self.ledger.available

        def clear(self) -> None:
            """Take all slots back."""
            self.ledger.reset()
            groups.begin(self)
            self.release_pages = None

        def get_all_free_pages(self) -> torch.Tensor:
            """Return every free page."""
            return self.ledger.free_pages()

        def merge_and_sort_free(self) -> None:
            """Do nothing: they are always sorted."""

        def free(self, free_index: torch.Tensor) -> None:
            """Take slots back, at the end of the group if one was begun."""
            if free_index.numel() and not groups.put_off(self, free_index):
                self.ledger.give(self.pages_of(free_index))

        def pressure(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
            """Return, for each slot, 0 to 1: how much freeing it would help to empty its segment."""
            return self.ledger.pressure(indices)

        def backup_state(self) -> Any:
            """Refuse it."""
            raise UnsupportedError(
                "--radix-cache-backend farspan does not work with allocations that are taken back",
                LEAVE_POOLS,
            )

    return ElasticTokenToKVPoolAllocator()


def _single_slots() -> Any:
    """Return SGLang's allocator of single slots, which takes them from a ledger."""
    base = import_module(f"{_ALLOCATORS}.token").TokenToKVPoolAllocator

    class ElasticSlots(base):  # type: ignore[misc, valid-type]
        ledger: SlotLedger

        def alloc(self, need_size: int) -> torch.Tensor | None:
            """Return slots, or None when there is no memory for them."""
            return self.ledger.take(need_size)

        def pages_of(self, slots: torch.Tensor) -> torch.Tensor:
            """Return the pages of slots, each once."""
            return slots

    return ElasticSlots


def _pages() -> Any:
    """Return SGLang's allocator of pages, which takes them from a ledger; its own code hands out their slots."""
    base = import_module(f"{_ALLOCATORS}.paged").PagedTokenToKVPoolAllocator

    class ElasticPages(base):  # type: ignore[misc, valid-type]
        ledger: SlotLedger
        handed_out: torch.Tensor | None

        def alloc(self, need_size: int) -> torch.Tensor | None:
            """Return the slots of whole pages, or None when there is no memory for them."""
            with self._taken(need_size // self.page_size) as taken:
                slots: torch.Tensor | None = super().alloc(need_size) if taken else None
            return slots

        def alloc_extend(
            self,
            prefix_lens: torch.Tensor,
            prefix_lens_cpu: torch.Tensor,
            seq_lens: torch.Tensor,
            seq_lens_cpu: torch.Tensor,
            last_loc: torch.Tensor,
            extend_num_tokens: int,
            num_new_pages: int | None = None,
        ) -> torch.Tensor | None:
            """Return slots for more of every request's prompt, or None when there is no memory for them."""
            count = num_new_pages
            if count is None:
                count = new_pages(self.page_size, seq_lens_cpu, prefix_lens_cpu)
            lengths = (prefix_lens, prefix_lens_cpu, seq_lens, seq_lens_cpu, last_loc)
            with self._taken(count) as taken:
                slots: torch.Tensor | None = (
                    super().alloc_extend(*lengths, extend_num_tokens, num_new_pages=count) if taken else None
                )
            return slots

        def alloc_decode(
            self, seq_lens: torch.Tensor, seq_lens_cpu: torch.Tensor, last_loc: torch.Tensor
        ) -> torch.Tensor | None:
            """Return a slot for each request's next token, or None when there is no memory for them."""
            with self._taken(new_pages(self.page_size, seq_lens_cpu)) as taken:
                slots: torch.Tensor | None = (
                    super().alloc_decode(seq_lens, seq_lens_cpu, last_loc) if taken else None
                )
            return slots

        def pages_of(self, slots: torch.Tensor) -> torch.Tensor:
            """Return the pages of slots, each once; waits for the device, as SGLang does here."""
            pages: torch.Tensor = torch.unique(slots // self.page_size)
            return pages

        def _release_page_ids(self, *page_ids: torch.Tensor) -> None:
            self.ledger.give(torch.cat(page_ids))

        @contextmanager
        def _taken(self, count: int) -> Iterator[bool]:
            """Have the base class find `count` pages that are to be handed out; False when there are not so many."""
            self.handed_out = self.ledger.take(count)
            try:
                yield self.handed_out is not None
            finally:
                self.handed_out = None

    return ElasticPages


def new_pages(page: int, stops: torch.Tensor, starts: torch.Tensor | None = None) -> int:
    """Return the pages that requests need to get from `starts`, or a token before, to `stops`, as SGLang counts."""
    count = import_module("sglang.srt.utils.common").get_num_new_pages
    found = count(seq_lens=stops, page_size=page, prefix_lens=starts, decode=starts is None)
    return int(found)


def window_allocator(
    size: int, size_swa: int, page: int, dtype: torch.dtype, device: str, pool: Any, groups: FreeGroups
) -> Any:
    """Return SGLang's allocator of pairs of slots, full attention and window, over two elastic pools."""
    base = import_module(f"{_ALLOCATORS}.swa").SWATokenToKVPoolAllocator

    class ElasticSWATokenToKVPoolAllocator(base):  # type: ignore[misc, valid-type]
        """See `SWATokenToKVPoolAllocator`."""

        def __init__(self) -> None:
            # A pool of one slot with all that SGLang's has, and then the real ones.
            self.slot_map: SlotMap | None = None
            super().__init__(1, 1, 1, dtype, device, pool, False)
            self._size_full, self._size_swa, self.page_size = size, size_swa, page
            memory = pool.full_kv_pool.elastic_memory
            slot_map = memory.at_start(lambda: SlotMap(memory.segments, size + page, memory.wait))
            full = pool.full_kv_pool.elastic_pages
            memory.at_start(lambda: slot_map.cover(full.backed_stop * page))
            full.cover_with(lambda stop: slot_map.cover(stop * page))
            self.slot_map = slot_map
            self.full_attn_allocator = slot_allocator(size, page, dtype, device, pool.full_kv_pool, groups)
            self.swa_attn_allocator = slot_allocator(size_swa, page, dtype, device, pool.swa_kv_pool, groups)
            self.full_to_swa_index_mapping = slot_map.tensor
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
            self._secure(need_size)
            slots: torch.Tensor | None = super().alloc(need_size)
            return slots

        def alloc_extend(
            self,
            prefix_lens: torch.Tensor,
            prefix_lens_cpu: torch.Tensor,
            seq_lens: torch.Tensor,
            seq_lens_cpu: torch.Tensor,
            last_loc: torch.Tensor,
            extend_num_tokens: int,
        ) -> torch.Tensor | None:
            """Return the same for more of every request's prompt, in pages."""
            self._secure(new_pages(page, seq_lens_cpu, prefix_lens_cpu) * page)
            lengths = (prefix_lens, prefix_lens_cpu, seq_lens, seq_lens_cpu, last_loc)
            slots: torch.Tensor | None = super().alloc_extend(*lengths, extend_num_tokens)
            return slots

        def alloc_decode(
            self, seq_lens: torch.Tensor, seq_lens_cpu: torch.Tensor, last_loc: torch.Tensor
        ) -> torch.Tensor | None:
            """Return the same for each request's next token, in pages; none where one pool has no memory for them."""
            count = new_pages(page, seq_lens_cpu)
            self._secure(count * page)
            if not self.new_pages_available(count, count):
                return None
            slots: torch.Tensor | None = super().alloc_decode(seq_lens, seq_lens_cpu, last_loc)
            return slots

        def pressure(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
            """Return, for each slot of full attention, 0 to 1: how much freeing it would help to empty its segment."""
            found: NDArray[np.float64] = self.full_attn_allocator.pressure(indices)
            return found

        def _secure(self, tokens: int) -> None:
            """Have memory for so many available slots of both pools, as far as there is any."""
            for one in (self.full_attn_allocator, self.swa_attn_allocator):
                if tokens > one.available_size():
                    one.ledger.secure(tokens)

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
