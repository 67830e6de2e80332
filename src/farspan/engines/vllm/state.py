"""Everything known of one vLLM server once its flags, layers and budget are settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from farspan.engines.vllm.batch import BatchLimits
from farspan.engines.vllm.budget import Budget
from farspan.engines.vllm.flags import VllmFlags
from farspan.engines.vllm.hybrid import HybridState
from farspan.engines.vllm.layout import kv_layout
from farspan.engines.vllm.ledger import make_ledger
from farspan.engines.vllm.pool import NULL_BLOCKS, VllmKvLayout
from farspan.engines.vllm.versions import VllmRules
from farspan.models.spec import KvDtype
from farspan.planner.ledger import MemoryLedger
from farspan.planner.request import PlanRequest


@dataclass(frozen=True, slots=True)
class VllmFrame:
    """What a server is whatever its context: worked out once for a sweep.

    Args:
        hybrid: Whether hybrid groups are on.
        env_chosen: Whether the plan sets the environment variable that turns them on.
        kv_dtype: The resolved KV type.
        block_size: Tokens of a block before alignment.
        prefix_caching: Whether prefix caching is on.
        layout: The KV layout.
        budget: The KV budget.
        num_blocks: Blocks of the pool.
        available: Bytes the capacity check compares with.
        in_flight: Tokens windowed layers reserve beside their window.
        capacity: Longest single request in tokens.
        second_runner: Whether block tables are kept twice.
        beside_tables: Bytes of everything on the GPU but the block tables.
        printed: What the server prints before its KV cache is laid out.
    """

    hybrid: HybridState
    env_chosen: bool
    kv_dtype: KvDtype
    block_size: int
    prefix_caching: bool
    layout: VllmKvLayout
    budget: Budget
    num_blocks: int
    available: int
    in_flight: int
    capacity: int
    second_runner: bool
    beside_tables: int
    printed: Mapping[str, str]


class VllmState(NamedTuple):
    """One planned server.

    Args:
        request: The question.
        rules: The version's rules.
        given: Flags as given.
        frame: What the context does not change.
        max_model_len: Longest request the server will accept.
        limits: Batch limits.
        default_requests: max_num_seqs had the plan not lowered it.
        tables: Block tables in bytes.
        needed_blocks: Blocks one request of the asked context holds.
    """

    request: PlanRequest
    rules: VllmRules
    given: VllmFlags
    frame: VllmFrame
    max_model_len: int
    limits: BatchLimits
    default_requests: int
    tables: int
    needed_blocks: int

    @property
    def layout(self) -> VllmKvLayout:
        """The KV layout."""
        return self.frame.layout

    @property
    def default_tables(self) -> int:
        """Block tables in bytes had the plan not lowered max_num_seqs."""
        return self.tables // self.limits.requests * self.default_requests

    @property
    def lacking(self) -> int:
        """Bytes the server lacks once everything is allocated, negative when it does not.

        A KV figure from the engine's own log is not doubted.
        """
        if self.request.available_kv_bytes is not None:
            return 0
        return self.frame.beside_tables + self.tables - self.request.gpu.memory_bytes

    @property
    def requests_chosen(self) -> bool:
        """Whether the plan lowers max_num_seqs by itself."""
        return self.limits.requests != self.default_requests

    @property
    def max_concurrency(self) -> float:
        """Requests of the asked context at once, as vLLM works it out."""
        return self.frame.num_blocks / self.needed_blocks

    @property
    def holds(self) -> int:
        """Whole requests of the asked context at once, the placeholder block left out."""
        return max(self.frame.num_blocks - NULL_BLOCKS, 0) // self.needed_blocks

    def ledger(self) -> MemoryLedger:
        """Every allocation."""
        return make_ledger(
            self.request.model,
            self.request.gpu,
            self.request.tp,
            self.layout,
            self.frame.num_blocks,
            self.max_model_len,
            self.limits,
            self.frame.budget,
            self.rules,
            graphs=not self.given.enforce_eager,
            kv_offload_bytes=self.given.kv_offload_bytes,
        )

    def capacity_with(self, kv_dtype: KvDtype) -> int:
        """Longest single request with another KV type."""
        layout = self._layout_with(kv_dtype)
        return layout.longest_request(layout.num_blocks(self.frame.budget.available), self.frame.in_flight)

    def holds_with(self, kv_dtype: KvDtype) -> int:
        """Whole requests of the asked context at once with another KV type."""
        layout = self._layout_with(kv_dtype)
        num_blocks = layout.num_blocks(self.frame.budget.available)
        needed = layout.request_blocks(self.request.context, self.frame.in_flight)
        return max(num_blocks - NULL_BLOCKS, 0) // needed

    def _layout_with(self, kv_dtype: KvDtype) -> VllmKvLayout:
        return kv_layout(
            self.request.model,
            self.rules,
            tp=self.request.tp,
            kv_dtype=kv_dtype,
            block_size=self.frame.block_size,
            hybrid=self.frame.hybrid.on,
            prefix_caching=self.frame.prefix_caching,
        )
