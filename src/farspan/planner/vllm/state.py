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
from farspan.planner.vllm.lines import gpu_total, make_ledger
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
        tables: Block tables in bytes.
        budget: The KV budget.
        num_blocks: Blocks of the pool.
        available: Bytes the capacity check compares with.
        in_flight: Tokens windowed layers reserve beside their window.
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
    tables: int
    budget: Budget
    num_blocks: int
    available: int
    in_flight: int
    capacity: int

    @property
    def lacking(self) -> int:
        """Bytes the server lacks once everything is allocated, negative when it does not.

        A KV figure from the engine's own log is not doubted.
        """
        if self.request.available_kv_bytes is not None:
            return 0
        graphs = not self.given.enforce_eager
        total = gpu_total(self.layout, self.num_blocks, self.budget, self.tables, graphs=graphs)
        return total - self.request.gpu.memory_bytes

    @property
    def requests_chosen(self) -> bool:
        """Whether the plan lowers max_num_seqs by itself."""
        return self.limits.requests != self.default_requests

    @property
    def max_concurrency(self) -> float:
        """Requests of the asked context at once, as vLLM works it out."""
        return self.layout.concurrency(self.num_blocks, self.request.context, self.in_flight)

    @property
    def holds(self) -> int:
        """Whole requests of the asked context at once, the placeholder block left out."""
        return self._holds(self.layout, self.num_blocks)

    def ledger(self) -> MemoryLedger:
        """Every allocation."""
        return make_ledger(
            self.request.model,
            self.request.gpu,
            self.request.tp,
            self.layout,
            self.num_blocks,
            self.max_model_len,
            self.limits,
            self.budget,
            self.rules,
            graphs=not self.given.enforce_eager,
        )

    def capacity_with(self, kv_dtype: KvDtype) -> int:
        """Longest single request with another KV type."""
        layout = self._layout_with(kv_dtype)
        return layout.longest_request(layout.num_blocks(self.budget.available), self.in_flight)

    def holds_with(self, kv_dtype: KvDtype) -> int:
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
