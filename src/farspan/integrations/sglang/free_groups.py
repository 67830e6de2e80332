"""How an allocator of SGLang puts off what is freed between `free_group_begin` and `free_group_end`, by version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class FreeGroups(Protocol):
    """What one version's allocators keep of slots whose group has not ended."""

    def begin(self, allocator: Any) -> None:
        """Have an allocator that puts nothing off."""

    def put_off(self, allocator: Any, slots: torch.Tensor) -> bool:
        """Keep slots for the end of a group; return False where none has begun."""


class FlaggedGroups:
    """Those of SGLang 0.5.16: a list, and whether it is in use."""

    def begin(self, allocator: Any) -> None:
        """See `FreeGroups`."""
        allocator.is_not_in_free_group = True
        allocator.free_group = []

    def put_off(self, allocator: Any, slots: torch.Tensor) -> bool:
        """See `FreeGroups`."""
        if allocator.is_not_in_free_group:
            return False
        allocator.free_group.append(slots)
        return True


class ListedGroups:
    """Those of SGLang 0.5.23: a list while a group lasts, and lists of window slots and of pages."""

    def begin(self, allocator: Any) -> None:
        """See `FreeGroups`."""
        allocator.free_group = None
        allocator.swa_free_group = []
        allocator.swa_page_ids_group = []
        allocator.free_page_ids_group = []

    def put_off(self, allocator: Any, slots: torch.Tensor) -> bool:
        """See `FreeGroups`; slots are copied, because what they are a view of may change until then."""
        if allocator.free_group is None:
            return False
        allocator.free_group.append(allocator._copy_for_free_group(slots))
        return True
