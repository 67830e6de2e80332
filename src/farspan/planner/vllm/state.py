"""Everything known of one vLLM server once its flags, layers and budget are settled."""

from __future__ import annotations

from dataclasses import dataclass

from farspan.models.spec import KvDtype
from farspan.planner.ledger import MemoryLedger
from farspan.planner.request import PlanRequest
from farspan.planner.vllm.batch import BatchLimits
from farspan.planner.vllm.budget import Budget
from farspan.planner.vllm.flags import GivenFlags
from farspan.planner.vllm.hybrid import HybridState
from farspan.planner.vllm.layers import kv_layout
from farspan.planner.vllm.pool import NULL_BLOCKS, KvLayout
from farspan.planner.vllm.versions import VllmRules


@dataclass(frozen=True, slots=True)
class VllmState:
    """One planned server.

    Args:
        request: The question.
        rules: The version's rules.
        given: Flags as given.
        hybrid: Whether hybrid groups are on.
        env_chosen: Whether the plan sets the environment variable that turns them on.
        kv_dtype: The resolved KV type.
        block_size: Tokens of a block before alignment.
        prefix_caching: Whether prefix caching is on.
        layout: The KV layout.
        max_model_len: Longest request the server will accept.
        limits: Batch limits.
        default_requests: max_num_seqs had the plan not lowered it.
        default_tables: Block tables in bytes with that default.
        budget: The KV budget.
        num_blocks: Blocks of the pool.
        ledger: Every allocation.
        refusal: Why the server does not start, in one sentence; empty when it does.
        capacity: Longest single request in tokens.
    """

    request: PlanRequest
    rules: VllmRules
    given: GivenFlags
    hybrid: HybridState
    env_chosen: bool
    kv_dtype: KvDtype
    block_size: int
    prefix_caching: bool
    layout: KvLayout
    max_model_len: int
    limits: BatchLimits
    default_requests: int
    default_tables: int
    budget: Budget
    num_blocks: int
    ledger: MemoryLedger
    refusal: str
    capacity: int

    @property
    def starts(self) -> bool:
        """Whether the server starts."""
        return not self.refusal

    @property
    def in_flight(self) -> int:
        """Tokens windowed layers reserve beside their window."""
        return self.limits.in_flight(self.rules)

    @property
    def requests_chosen(self) -> bool:
        """Whether the plan lowers max_num_seqs by itself."""
        return self.limits.requests != self.default_requests

    @property
    def max_concurrency(self) -> float:
        """Requests of the asked context at once, as vLLM works it out."""
        return self.layout.concurrency(self.num_blocks, self.request.context, self.in_flight)

    @property
    def fits(self) -> bool:
        """Whether the server starts and as many requests as asked for run at once."""
        request = self.request
        return (
            self.starts
            and request.context <= self.max_model_len
            and self.limits.requests >= request.concurrency
            and self._holds(self.layout, self.num_blocks) >= request.concurrency
        )

    def capacity_with(self, kv_dtype: KvDtype) -> int:
        """Longest single request with another KV type."""
        layout = self._layout_with(kv_dtype)
        return layout.longest_request(layout.num_blocks(self.budget.available), self.in_flight)

    def concurrency_with(self, kv_dtype: KvDtype) -> int:
        """Whole requests of the asked context at once with another KV type."""
        layout = self._layout_with(kv_dtype)
        return self._holds(layout, layout.num_blocks(self.budget.available))

    def _holds(self, layout: KvLayout, num_blocks: int) -> int:
        needed = layout.request_blocks(self.request.context, self.in_flight)
        return max(num_blocks - NULL_BLOCKS, 0) // needed

    def _layout_with(self, kv_dtype: KvDtype) -> KvLayout:
        return kv_layout(
            self.request.model,
            self.rules,
            tp=self.request.tp,
            kv_dtype=kv_dtype,
            block_size=self.block_size,
            hybrid=self.hybrid.on,
            prefix_caching=self.prefix_caching,
        )
