"""Everything known of one vLLM server once its flags, layers and budget are settled."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from farspan.engines.vllm.budget import Budget, bytes_beside_tables, gib, kv_budget
from farspan.engines.vllm.config import VllmConfig
from farspan.engines.vllm.defaults import (
    BatchLimits,
    batch_limits,
    default_block_size,
    every_state,
    on_second_runner,
    prefix_caching,
    resolve_kv_dtype,
)
from farspan.engines.vllm.hybrid import HybridState, hybrid_state
from farspan.engines.vllm.layout import kv_layout
from farspan.engines.vllm.pool import NULL_BLOCKS, VllmKvLayout
from farspan.engines.vllm.tables import table_bytes
from farspan.engines.vllm.versions import VllmRules
from farspan.models.spec import AttentionKind, KvDtype
from farspan.planner.request import PlanRequest


class VllmMemory(NamedTuple):
    """A server's KV layout, budget and pool: worked out once for a sweep.

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
        shown_available: "Available KV cache memory" of the log: that of the first pipeline stage.
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
    shown_available: int
    printed: Mapping[str, str]


class VllmState(NamedTuple):
    """One planned server.

    Args:
        request: The question.
        config: What no context changes.
        memory: Its layout, budget and pool.
        max_model_len: Longest request the server will accept.
        limits: Batch limits.
        default_requests: max_num_seqs had the plan not lowered it.
        tables: Block tables in bytes.
        needed_blocks: Blocks one request of the asked context holds.
    """

    request: PlanRequest
    config: VllmConfig
    memory: VllmMemory
    max_model_len: int
    limits: BatchLimits
    default_requests: int
    tables: int
    needed_blocks: int

    @property
    def rules(self) -> VllmRules:
        """The version's rules."""
        return self.config.rules

    @property
    def layout(self) -> VllmKvLayout:
        """The KV layout."""
        return self.memory.layout

    @property
    def default_tables(self) -> int:
        """Block tables in bytes had the plan not lowered max_num_seqs."""
        return self.tables // self.limits.requests * self.default_requests

    @property
    def default_tables_fit(self) -> bool:
        """Whether these fit beside everything else."""
        return self.memory.beside_tables + self.default_tables <= self.request.gpu.memory_bytes

    @property
    def lacking(self) -> int:
        """Bytes the server lacks once everything is allocated, negative when it does not.

        A KV figure from the engine's own log is not doubted.
        """
        if self.request.available_kv_bytes is not None:
            return 0
        return self.memory.beside_tables + self.tables - self.request.gpu.memory_bytes

    @property
    def states_lacking(self) -> int:
        """Blocks that capturing decode steps of max_num_seqs requests asks for and the pool has not.

        vllm 0.20.0 config/compilation.py: resolve_cudagraph_mode_and_sizes; drafted tokens may turn whole steps off.
        """
        missing = self.limits.requests - self.memory.num_blocks
        if missing <= 0 or not self.rules.checks_state_blocks:
            return 0
        given, layers = self.config.given, self.config.model.layers_of(AttentionKind.LINEAR)
        if given.enforce_eager or not given.full_graphs or given.draft_tokens:
            return 0
        return 0 if next(layers, None) is None else missing

    @property
    def requests_chosen(self) -> bool:
        """Whether the plan lowers max_num_seqs by itself."""
        return self.limits.requests != self.default_requests

    @property
    def max_concurrency(self) -> float:
        """Requests of the asked context at once, as vLLM works it out."""
        return self.memory.num_blocks / self.needed_blocks

    @property
    def request_kv_bytes(self) -> int:
        """What one request of the asked context takes of the KV room of one GPU."""
        return self.needed_blocks * self.layout.bytes_per_block

    @property
    def keeps_all_tokens(self) -> bool:
        """Whether windowed layers keep every token, since hybrid groups are off."""
        specs = [spec for group in self.layout.groups for spec in group.distinct]
        return not self.memory.hybrid.on and any(spec.full_window or spec.full_chunk for spec in specs)

    @property
    def holds(self) -> int:
        """Whole requests of the asked context at once, the placeholder block left out."""
        return max(self.memory.num_blocks - NULL_BLOCKS, 0) // self.needed_blocks

    def capacity_with(self, kv_dtype: KvDtype) -> int:
        """Longest single request with another KV type."""
        layout = self._layout_with(kv_dtype)
        return layout.longest_request(layout.num_blocks(self.memory.budget.available), self.memory.in_flight)

    def holds_with(self, kv_dtype: KvDtype) -> int:
        """Whole requests of the asked context at once with another KV type."""
        layout = self._layout_with(kv_dtype)
        num_blocks = layout.num_blocks(self.memory.budget.available)
        needed = layout.request_blocks(self.request.context, self.memory.in_flight)
        return max(num_blocks - NULL_BLOCKS, 0) // needed

    def _layout_with(self, kv_dtype: KvDtype) -> VllmKvLayout:
        return kv_layout(
            self.config.model,
            self.config.rules,
            tp=self.request.tp,
            kv_dtype=kv_dtype,
            block_size=self.memory.block_size,
            hybrid=self.memory.hybrid.on,
            prefix_caching=self.memory.prefix_caching,
            context_ranks=self.config.given.context_ranks,
            draft_tokens=self.config.given.draft_tokens,
            every_state=every_state(self.config.model, self.config.given, self.config.rules),
        )


@lru_cache(maxsize=1024)
def _memory(config: VllmConfig, limits: BatchLimits, allow_env: bool) -> VllmMemory:
    """Lay the cache out and size the pool; `allow_env` treats the variable that allows hybrid groups as set.

    Raises:
        GroupingError: vLLM cannot group the layers.
    """
    model, gpu, given, rules = config.model, config.gpu, config.given, config.rules
    hybrid = hybrid_state(model, given, rules, allow_env=allow_env)
    kv_dtype = resolve_kv_dtype(model, given.kv_dtype)
    block_size = given.block_size or default_block_size(model, gpu, kv_dtype, rules)
    prefix_cached = prefix_caching(model, given, rules)
    layout = kv_layout(
        model,
        rules,
        tp=config.tp,
        kv_dtype=kv_dtype,
        block_size=block_size,
        hybrid=hybrid.on,
        prefix_caching=prefix_cached,
        context_ranks=given.context_ranks,
        draft_tokens=given.draft_tokens,
        every_state=every_state(model, given, rules),
    )
    budget = kv_budget(config, limits)
    num_blocks = given.num_blocks or layout.num_blocks(budget.available)
    in_flight = limits.in_flight(rules)
    available = num_blocks * layout.bytes_per_block if given.num_blocks else budget.available
    printed = {"Model loading took": gib(budget.loaded)}
    if available > 0 and num_blocks > 0:
        printed["Available KV cache memory"] = gib(budget.available)
    return VllmMemory(
        hybrid=hybrid,
        env_chosen=allow_env and hybrid.on and not rules.chunked_hybrid_default,
        kv_dtype=kv_dtype,
        block_size=block_size,
        prefix_caching=prefix_cached,
        layout=layout,
        budget=budget,
        num_blocks=num_blocks,
        available=available,
        in_flight=in_flight,
        capacity=layout.longest_request(num_blocks, in_flight),
        second_runner=on_second_runner(model, rules),
        beside_tables=bytes_beside_tables(config, limits, layout, num_blocks, budget),
        shown_available=budget.available,
        printed=printed,
    )


def _narrowest(config: VllmConfig, limits: BatchLimits, allow_env: bool) -> tuple[VllmMemory, VllmConfig]:
    """The pipeline stage with the fewest blocks: all stages are given as many (get_kv_cache_configs)."""
    if config.pp == 1:
        return _memory(config, limits, allow_env), config
    stages = [config.of_stage(index) for index in range(config.pp)]
    memories = [_memory(stage, limits, allow_env) for stage in stages]
    index = min(
        range(config.pp), key=lambda index: (memories[index].num_blocks, memories[index].budget.available)
    )
    first = memories[0]
    shown = memories[index]._replace(shown_available=first.shown_available, printed=first.printed)
    return shown, stages[index]


def build_state(
    request: PlanRequest, config: VllmConfig, *, allow_env: bool, requests: int | None = None
) -> VllmState:
    """Everything of a server with a request's flags.

    Args:
        request: The question.
        config: Its flags, read.
        allow_env: Treat the environment variable that allows hybrid groups as set where it was not given.
        requests: Requests at once, in place of vLLM's default.

    Raises:
        GroupingError: vLLM cannot group the layers.
    """
    model, given = request.model, config.given
    max_model_len = given.max_model_len or request.context
    if given.auto_max_model_len:
        max_model_len = model.max_position_embeddings
    default = batch_limits(given, config.gpu, max_model_len, config.rules)
    limits = default if requests is None else default._replace(requests=requests)
    memory, config = _narrowest(config, limits, allow_env)
    if given.auto_max_model_len:
        longest = memory.layout.estimated_max_model_len(memory.available, max_model_len, memory.in_flight)
        max_model_len = longest or max_model_len
    return VllmState(
        request,
        config,
        memory,
        max_model_len,
        limits,
        default.requests,
        table_bytes(memory.layout, max_model_len, limits.requests, second_runner=memory.second_runner),
        memory.layout.request_blocks(request.context, memory.in_flight),
    )
