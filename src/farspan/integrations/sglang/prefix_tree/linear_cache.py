"""What the prefix caches of all versions of SGLang have in common: the tree, what it counts and what it evicts."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any, ClassVar

import torch

from farspan.integrations.sglang.prefix_tree.allocator_slots import AllocatorSlots
from farspan.integrations.sglang.prefix_tree.linear_tree import LinearTree
from farspan.integrations.sglang.prefix_tree.stretch import join
from farspan.integrations.sglang.prefix_tree.tree_checks import check_tree_counts


def cache_class(methods: type[LinearCache]) -> Any:
    """Return the prefix cache of one version: its methods, as a kind of SGLang's `BasePrefixCache`."""
    interface = import_module("sglang.srt.mem_cache.base_prefix_cache")
    return type("LinearPrefixCache", (methods, interface.BasePrefixCache), {"interface": interface})


class LinearCache:
    """Half of a prefix cache; the other half, of one version, comes before it among the bases of the class.

    Args:
        params: SGLang's `CacheInitParams`.

    Attributes:
        interface: SGLang's module of that name.
    """

    interface: ClassVar[Any]
    owner_class: ClassVar[type[AllocatorSlots]] = AllocatorSlots
    disable = False

    def __init__(self, params: Any) -> None:
        self.req_to_token_pool = params.req_to_token_pool
        self.token_to_kv_pool_allocator = params.token_to_kv_pool_allocator
        self.page_size: int = params.page_size
        self.sliding_window_size: int | None = params.sliding_window_size
        self.device = self.token_to_kv_pool_allocator.device
        if params.enable_metrics:
            self.init_metrics_collector()  # type: ignore[attr-defined]
        self.reset()

    def reset(self) -> None:
        """Forget everything; slots are not freed, because SGLang clears its pools too."""
        slots = self.owner_class(self.token_to_kv_pool_allocator)
        self.tree = LinearTree(slots, self.page_size, self.sliding_window_size)
        self.root_node = self.tree.root()

    def evict(self, params: Any) -> Any:
        """Free what was not used for longest."""
        begun = time.perf_counter()
        tokens, window_tokens = self.tree.evict(params.num_tokens, params.swa_num_tokens)
        self.update_eviction_metrics(tokens + window_tokens, begun)  # type: ignore[attr-defined]
        return self.interface.EvictResult(num_tokens_evicted=tokens, swa_num_tokens_evicted=window_tokens)

    # Counts

    def evictable_size(self) -> int:
        """Return the tokens of the tree that may go."""
        return self.tree.held - self.tree.locked

    def protected_size(self) -> int:
        """Return the tokens of the tree that are in use."""
        return self.tree.locked

    def full_evictable_size(self) -> int:
        """Return `evictable_size`."""
        return self.evictable_size()

    def full_protected_size(self) -> int:
        """Return `protected_size`."""
        return self.protected_size()

    def swa_evictable_size(self) -> int:
        """Return the tokens that may go of what window layers have."""
        windows = self.tree.windows
        return windows.held - windows.locked if windows else 0

    def swa_protected_size(self) -> int:
        """Return the tokens in use of what window layers have."""
        return self.tree.windows.locked if self.tree.windows else 0

    def total_size(self) -> Any:
        """Return the tokens of the tree, and with window layers theirs too."""
        return (self.tree.held, self.tree.windows.held) if self.tree.windows else self.tree.held

    def supports_swa(self) -> bool:
        """Whether the model has window layers with a pool of their own."""
        return self.tree.windows is not None

    def all_values_flatten(self) -> torch.Tensor:
        """Return all slots of the tree."""
        return self._slots_of(self.tree.slots())

    def sanity_check(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""
        check_tree_counts(self.tree)

    def available_and_evictable_str(self) -> str:
        """Return what is free and what may go, for SGLang's messages."""
        allocator = self.token_to_kv_pool_allocator
        if not self.supports_swa():
            free, evictable = allocator.available_size(), self.evictable_size()
            return f"Available tokens: {free + evictable} ({free} free, {evictable} evictable)\n"
        full, window = allocator.full_available_size(), allocator.swa_available_size()
        return (
            f"Available full tokens: {full + self.evictable_size()} ({full} free, {self.evictable_size()} evictable)\n"
            f"Available swa tokens: {window + self.swa_evictable_size()} ({window} free, "
            f"{self.swa_evictable_size()} evictable)\n"
        )

    def pretty_print(self) -> None:
        """Print a line for each stretch; SGLang does when it is out of memory."""
        for node in self.tree.nodes():
            window = sum(span.stop - span.start for span in node.spans)
            print(f"tokens {node.start}-{node.end}, locks {node.locks}, in window layers {window}")

    def _slots_of(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        """Return slots as SGLang has them."""
        if not pieces:
            return torch.empty(0, dtype=torch.int64, device=self.device)
        return join(pieces).to(torch.int64)
