"""The block pool: how many blocks, how many requests, and the check that lets the engine start."""

from __future__ import annotations

from dataclasses import dataclass, field

from farspan.engines.vllm.kv_groups import KvGroup, LayerSpecs, make_groups
from farspan.engines.vllm.kv_spec import FULL_KINDS, KvSpec
from farspan.engines.vllm.versions import CapacityCheck, VllmRules
from farspan.planner.bisection import last_holding

# Block 0 of the pool is a placeholder no request may hold (vllm v1/core/block_pool.py: null_block).
NULL_BLOCKS = 1


@dataclass(frozen=True, slots=True)
class VllmKvLayout:
    """The layers of one model as vLLM caches them; nothing here depends on memory or context.

    Args:
        layers: Spec of every layer, before grouping.
        groups: The KV groups.
        rules: The version's rules.
        context_ranks: Ranks that share the tokens of one request: a block then holds as many times more of them.
        bytes_per_block: Bytes of one block of the pool: a page of every layer of the largest group.
        alike: One group of each kind, and how many of it there are.
    """

    layers: LayerSpecs
    groups: tuple[KvGroup, ...]
    rules: VllmRules
    context_ranks: int = 1
    bytes_per_block: int = field(init=False)
    alike: tuple[tuple[KvGroup, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes_per_block", max(group.bytes_per_block for group in self.groups))
        alike: dict[tuple[KvSpec, ...], tuple[KvGroup, int]] = {}
        for group in self.groups:
            first, count = alike.get(group.distinct, (group, 0))
            alike[group.distinct] = (first, count + 1)
        object.__setattr__(self, "alike", tuple(alike.values()))

    @property
    def block_size(self) -> int:
        """Tokens in the smallest block of any group."""
        return min(group.spec.block_size for group in self.groups)

    def num_blocks(self, available: int) -> int:
        """Blocks in `available` bytes (vllm: get_num_blocks; from 0.29.0 _get_kv_cache_bytes_per_block)."""
        return max(available // self.bytes_per_block, 0)

    def request_blocks(self, tokens: int, in_flight: int) -> int:
        """Blocks one request of `tokens` tokens holds, all groups together."""
        blocks, kept = 0, tokens if self.context_ranks == 1 else -(-tokens // self.context_ranks)
        for group, count in self.alike:
            blocks += count * group.blocks(kept, in_flight)
        return blocks

    def concurrency(self, num_blocks: int, tokens: int, in_flight: int) -> float:
        """Requests of `tokens` tokens at once, as printed (vllm: get_max_concurrency_for_kv_cache_config)."""
        return num_blocks / self.request_blocks(tokens, in_flight)

    def longest_request(self, num_blocks: int, in_flight: int, *, copies: int = 1) -> int:
        """Longest context of which `copies` requests fit in the pool without its placeholder; 0 for none."""
        usable = (num_blocks - NULL_BLOCKS) // copies
        # No group holds more tokens than the whole pool has slots, unless its cost does not grow with them.
        limit = max(usable, 1) * max(group.spec.block_size for group in self.groups) * self.context_ranks
        guess = self._longest_past_windows(usable, limit, in_flight)
        if guess:
            longer = self.request_blocks(guess + 1, in_flight)
            if self.request_blocks(guess, in_flight) <= usable < longer:
                return guess
        return last_holding(1, limit, lambda tokens: self.request_blocks(tokens, in_flight) <= usable)

    def _longest_past_windows(self, usable: int, limit: int, in_flight: int) -> int:
        """The answer, if it is longer than every window and all full layers have one block size; else 0.

        Past the windows only full layers take more: what is left to them is shared out evenly.
        """
        growing = [group for group in self.groups if group.spec.kind in FULL_KINDS]
        blocks = {group.spec.block_size for group in growing}
        if len(blocks) != 1:
            return 0
        fixed = sum(group.blocks(limit, in_flight) for group in self.groups if group not in growing)
        return max(usable - fixed, 0) // len(growing) * blocks.pop() * self.context_ranks

    def needed_bytes(self, tokens: int, in_flight: int) -> int:
        """Bytes the engine believes one request of `tokens` tokens takes, by the check of this version."""
        tokens = -(-tokens // self.context_ranks)
        if self.rules.check is CapacityCheck.LAYERS:
            return layers_bytes(self.layers, tokens, in_flight)
        counted = self.groups[:1] if self.rules.check is CapacityCheck.FIRST_GROUP else self.groups
        if counted is self.groups:
            return self.bytes_per_block * self.request_blocks(tokens * self.context_ranks, in_flight)
        return self.bytes_per_block * sum(group.blocks(tokens, in_flight) for group in counted)

    def check_bytes(self, available: int) -> int:
        """Bytes the check compares with: all of them, or all but the placeholder block."""
        if self.rules.check is CapacityCheck.GROUPS_LESS_NULL:
            return available - self.bytes_per_block
        return available

    def passes_check(self, available: int, tokens: int, in_flight: int) -> bool:
        """Whether the engine starts with this max_model_len (vllm: check_enough_kv_cache_memory)."""
        budget = self.check_bytes(available)
        return budget > 0 and self.needed_bytes(tokens, in_flight) <= budget

    def estimated_max_model_len(self, available: int, max_model_len: int, in_flight: int) -> int:
        """The N of "the estimated maximum model length is N", searched as the engine does; 0 for none.

        vllm v1/core/kv_cache_utils.py: estimate_max_model_len, _estimate_max_model_len_from_groups.
        """
        budget = self.check_bytes(available)
        return last_holding(1, max_model_len, lambda tokens: self.needed_bytes(tokens, in_flight) <= budget)


def layers_bytes(layers: LayerSpecs, tokens: int, in_flight: int) -> int:
    """Bytes one request takes if every layer is counted by its own kind (vllm: max_memory_usage_bytes)."""
    return sum(spec.blocks(tokens, in_flight) * spec.page_bytes for spec in layers.values())


def make_layout(
    layers: LayerSpecs, rules: VllmRules, *, hybrid: bool, context_ranks: int = 1
) -> VllmKvLayout:
    """Group the layers of a model.

    Raises:
        GroupingError: vLLM refuses these layers.
    """
    return VllmKvLayout(layers, make_groups(layers, rules, hybrid=hybrid), rules, context_ranks)
