"""What the prefix caches of all versions of SGLang have in common: the tree, what it counts and what it evicts."""

from __future__ import annotations

import time
from collections.abc import Hashable
from importlib import import_module
from typing import Any, ClassVar

import torch

from farspan.errors import KVError
from farspan.integrations.sglang.prefix_tree.allocator_slots import AllocatorSlots
from farspan.integrations.sglang.prefix_tree.linear_tree import FoundPrefix, Kind, LinearTree, Tokens
from farspan.integrations.sglang.prefix_tree.prefix_rows import token_array
from farspan.integrations.sglang.prefix_tree.stretch import Place, join
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

    @property
    def left_behind(self) -> bool:
        """Whether window layers have something that a prompt left behind; see `LinearTree.left_behind`."""
        return self.tree.left_behind

    def older_kind(self) -> Kind | None:
        """Return which layers' cached KV should make room for the other's; see `LinearTree.older_kind`."""
        return self.tree.older_kind()

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

    def _match(self, key: Any, namespace: Hashable) -> FoundPrefix:
        """Return the longest prefix of SGLang's key that can be used."""
        if key.is_bigram:
            raise KVError("farspan's prefix tree has no keys of token pairs")
        return self.tree.match(token_array(key.token_ids)[: len(key)], namespace)

    def _extend(
        self,
        place: Place,
        start: int,
        tokens: Tokens,
        row: int,
        namespace: Hashable,
        *,
        window_from: int,
        window_locked: bool,
    ) -> Place:
        """Take tokens behind a request's place into the tree and move its lock; return the place it has now.

        Args:
            place: The request's, at position `start` as SGLang counts.
            start: Where its tokens go on.
            tokens: Whole pages of them.
            row: The request's, which gets the tree's slots for what the tree held already.
            namespace: See `LinearTree.extend`.
            window_from: Likewise.
            window_locked: Likewise.
        """
        if place.position != start:
            raise KVError(f"a request's tree has {place.position} of its tokens and SGLang counts {start}")
        pool = self.req_to_token_pool
        slots = pool.req_to_token[row, start : start + len(tokens)]
        extended = self.tree.extend(place, tokens, slots, window_from, namespace, window_locked=window_locked)
        if extended.known:
            known = join(extended.slots).to(torch.int32)
            pool.write((row, slice(start, start + extended.known)), known)
        return extended.place

    def _slots_of(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        """Return slots as SGLang has them."""
        if not pieces:
            return torch.empty(0, dtype=torch.int64, device=self.device)
        return join(pieces).to(torch.int64)
