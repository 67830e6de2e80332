"""SGLang's allocators as the tree sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class AllocatorSlots:
    """The slots of an allocator of SGLang's, of one pool or of a full and a window pool.

    Args:
        allocator: May have `pressure(indices)`, as elastic ones do: how much freeing each would help.
    """

    def __init__(self, allocator: Any) -> None:
        self.allocator = allocator

    @property
    def prefers(self) -> bool:
        """Whether the allocator prefers some slots to be freed before others."""
        return hasattr(self.allocator, "pressure")

    def pressure(self, slots: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return for each slot how much freeing it would help."""
        found: NDArray[np.float64] = self.allocator.pressure(slots)
        return found

    def free(self, slots: torch.Tensor) -> None:
        """Take slots back, with what window layers have of them."""
        if hasattr(self.allocator, "swa_attn_allocator"):
            self.free_window(slots)
        self.free_full(slots)

    def free_full(self, slots: torch.Tensor) -> None:
        """Take slots back of which window layers have nothing."""
        getattr(self.allocator, "full_attn_allocator", self.allocator).free(slots.to(torch.int64))

    def free_window(self, slots: torch.Tensor) -> None:
        """Take back only what window layers have of slots.

        SGLang 0.5.16's `free_swa` looks which slots have anything there, and sets the rest to a number of the host's:
        both wait for the pass that runs, and the GPU then waits for the scheduler. These slots all have something.
        """
        slots = slots.to(torch.int64)
        window = self.allocator.translate_loc_from_full_to_swa(slots)
        self.allocator.swa_attn_allocator.free(window.to(torch.int64))
        self._forget_window(slots)

    def move_window(self, kept: torch.Tensor, given: torch.Tensor) -> None:
        """Make what window layers have of `given` that of `kept`, which has nothing there, and take `given` back."""
        kept, given = kept.to(torch.int64), given.to(torch.int64)
        window = self.allocator.translate_loc_from_full_to_swa(given)
        self.allocator.set_full_to_swa_mapping(kept, window)
        # Their part of window layers is that of others now.
        self._forget_window(given)
        self.free_full(given)

    def _forget_window(self, slots: torch.Tensor) -> None:
        self.allocator.full_to_swa_index_mapping.index_fill_(0, slots, 0)


class StrictAllocatorSlots(AllocatorSlots):
    """The slots of SGLang 0.5.23's allocators, which must be told what window layers have nothing of."""

    def free(self, slots: torch.Tensor) -> None:
        """Take slots back, with what window layers have of them."""
        self.allocator.free(slots.to(torch.int64))

    def free_full(self, slots: torch.Tensor) -> None:
        """Take slots back of which window layers have nothing."""
        self.allocator.free_full(slots.to(torch.int64))

    def free_window(self, slots: torch.Tensor) -> None:
        """Take back only what window layers have of slots."""
        self.allocator.free_swa(slots.to(torch.int64))

    def _forget_window(self, slots: torch.Tensor) -> None:
        self.allocator.clear_full_to_swa_mapping(slots)
