"""Everything computed for one SGLang server: pools, request slots, tables, and what is left of the GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from farspan.engines.sglang.admission import Admission, admission
from farspan.engines.sglang.config import SglangConfig, config_of
from farspan.engines.sglang.defaults import context_length_of
from farspan.engines.sglang.elastic import grown_pools, row_bytes
from farspan.engines.sglang.footprint import (
    LoadSizes,
    context_bytes,
    counted_draft_bytes,
    fixed_bytes,
    load_sizes,
    lora_bytes,
    prefill_bytes,
    returned_bytes,
    table_bytes,
)
from farspan.engines.sglang.hicache import HicacheTier, host_tier
from farspan.engines.sglang.layout import WINDOWED
from farspan.engines.sglang.pool import (
    NO_POOLS,
    PoolError,
    PoolSizes,
    SplitSettings,
    no_token,
    requests_by_state,
    solve_pools,
    window_tokens_per_request,
)
from farspan.engines.sglang.tables import (
    GraphShape,
    GraphTable,
    captured_batch,
    graph_tables,
    request_rows,
)
from farspan.models.spec import AttentionKind, ModelSpec
from farspan.planner.request import PlanRequest


class SglangMemory(NamedTuple):
    """A server's memory up to its pools, worked out once for a sweep.

    Args:
        load: What is on the GPU before the pools.
        available: Bytes the pools are sized from.
        sizes: What the pools hold; nothing when SGLang stops while sizing them.
        stops: Why it does; None when it does not.
        fixed: Bytes on the GPU that the context does not change.
        state_cap: Requests the recurrent-state slots allow; None without recurrent layers.
    """

    load: LoadSizes
    available: float
    sizes: PoolSizes
    stops: PoolError | None
    fixed: int
    state_cap: int | None


class SglangServer(NamedTuple):
    """One set of flags and a context length, with the pools sized: enough to see that most sets do not serve."""

    request: PlanRequest
    config: SglangConfig
    context_length: int
    memory: SglangMemory

    @property
    def pool_tokens(self) -> int:
        """Tokens that the ranks of one KV cache hold together."""
        return self.memory.sizes.full_tokens * self.config.given.context_ranks

    @property
    def rows(self) -> int:
        """Request slots."""
        given, rules = self.config.given, self.config.rules
        tokens, cap = self.memory.sizes.row_tokens, self.memory.state_cap
        return request_rows(tokens, self.context_length, given.requests_per_group, rules, cap)


class SglangState(NamedTuple):
    """One planned server.

    Args:
        request: The question.
        config: What no context changes.
        context_length: The server's limit on prompt and answer together, tokens.
        memory: Its memory up to the pools.
        rows: Request slots.
        batch: Largest captured batch; 0 without CUDA graphs.
        tables: Buffers of the attention backend's graph state.
        tier: HiCache's pools in RAM, if asked for.
        limits: Which requests it takes, and how many at once.
        prompt: Tokens of the request's prompt.
        left_started: Bytes left on the GPU once the server is up; negative when it does not start.
        left_running: Bytes left while it reads the prompt.
    """

    request: PlanRequest
    config: SglangConfig
    context_length: int
    memory: SglangMemory
    rows: int
    batch: int
    tables: tuple[GraphTable, ...]
    tier: HicacheTier | None
    limits: Admission
    prompt: int
    left_started: int
    left_running: int

    @property
    def refusal(self) -> str:
        """Why the server stops for want of RAM; empty when it does not."""
        return self.tier.refusal if self.tier else ""

    @property
    def starts(self) -> bool:
        """Whether it starts."""
        return self.left_started >= 0 and not self.refusal and self.rows > 0

    @property
    def request_kv_bytes(self) -> int:
        """What one request of the asked context takes of the pools of one GPU, in whole pages, its state with it."""
        layout, page = self.config.layout, self.config.resolved.page_size
        tokens = -(-self.request.context // page) * page
        held = tokens
        if not self.config.rules.admits_by_smaller_pool:
            held = min(tokens, window_tokens_per_request(layout, page))
        cell = layout.full_layers * layout.stored_layer_bytes + layout.indexer_bytes
        full = -(-tokens // self.config.given.context_ranks) * cell
        return full + held * layout.window_cell_bytes + layout.state_bytes

    @property
    def request_kv_reason(self) -> str:
        """Why that is more than the layers need; empty where it is not."""
        layout, version = self.config.layout, self.config.rules.version
        if layout.window_layers:
            if self.config.rules.admits_by_smaller_pool:
                return f"sglang {version} keeps the whole request in the window layers' pool too"
            return ""
        windowed = sum(1 for layer in self.config.model.layers if layer.attention in WINDOWED)
        if not windowed:
            return ""
        return f"in one pool its {windowed} window layers keep every token"

    @property
    def fits(self) -> bool:
        """Whether it starts, and as many requests as are asked for run at once."""
        asked, limits = self.request, self.limits
        return (
            self.starts
            and self.left_running >= 0
            and limits.longest_request + 2 >= asked.context
            and asked.context <= self.context_length
            and limits.concurrency >= asked.concurrency
        )


def size_server(request: PlanRequest) -> SglangServer:
    """Read the flags and size the pools.

    Raises:
        InputError: As `farspan.engines.sglang.config.config_of`, or a context above what the model allows.
    """
    config = config_of(request)
    context_length = context_length_of(config.given, request.model, request.context)
    memory = _memory(config, request.available_kv_bytes, config.decisive_context(context_length))
    return SglangServer(request, config, context_length, memory)


def is_hopeless(server: SglangServer) -> bool:
    """Whether the pool, or the request table beside it, rules the request out before anything else is
    counted: most sets of flags that are tried for a long context."""
    memory = server.memory
    if server.pool_tokens < server.request.context:
        return True
    table = table_bytes(server.config, server.rows, server.context_length)
    return memory.fixed + table > server.request.gpu.memory_bytes


@lru_cache(maxsize=256)
def _memory(config: SglangConfig, available_kv_bytes: int | None, context_length: int) -> SglangMemory:
    """Load the model and size the pools; `context_length` is 0 where nothing in them depends on it."""
    load = load_sizes(config, context_length)
    available = _kv_bytes(config, load, available_kv_bytes)
    given, rules = config.given, config.rules
    try:
        sizes = solve_pools(available, config.layout, _split_settings(config, context_length), rules)
    except PoolError as error:
        return SglangMemory(load, available, NO_POOLS, error.with_traceback(None), 0, None)
    cap = None
    if sizes.state_slots:
        cap = requests_by_state(
            sizes.state_slots, rules, radix_cache=given.radix_cache, overlap=given.overlap
        )
    if given.speculation is not None:
        sizes = _with_headroom(sizes, config)
    if config.has_elastic_pools:
        chunk, page = config.resolved.chunked_prefill_size, config.resolved.page_size
        sizes = grown_pools(sizes, available, config.layout, chunk, context_length, page)
        if sizes.full_tokens <= 0:
            return SglangMemory(load, available, NO_POOLS, no_token(), 0, None)
    return SglangMemory(load, available, sizes, None, fixed_bytes(config, load, sizes, available), cap)


def _with_headroom(sizes: PoolSizes, config: SglangConfig) -> PoolSizes:
    """The pool with what older versions add to it for drafts."""
    speculation, page = config.given.speculation, config.resolved.page_size
    assert speculation is not None
    more = speculation.headroom(config.given.requests_per_group or 0, config.rules)
    if not more:
        return sizes
    most = config.given.max_total_tokens
    tokens = sizes.full_tokens + more
    return sizes._replace(full_tokens=(tokens if most is None else min(tokens, most)) // page * page)


def _kv_bytes(config: SglangConfig, load: LoadSizes, available_kv_bytes: int | None) -> float:
    """Bytes the pools are sized from: what is free after loading less (1 - fraction) of what was free before
    (0.5.6.post2 profile_max_num_token, 0.5.16 _profile_available_bytes)."""
    if available_kv_bytes is not None:
        return float(available_kv_bytes)
    slack = load.free_before * (1 - config.resolved.mem_fraction_static)
    reserve = config.rules.multimodal_reserve_bytes if config.resolved.multimodal else 0
    return load.free_after - lora_bytes(config) - counted_draft_bytes(config) - slack - reserve


def _split_settings(config: SglangConfig, context_length: int) -> SplitSettings:
    given, resolved = config.given, config.resolved
    return SplitSettings(
        page_size=resolved.page_size,
        swa_ratio=given.swa_ratio,
        hybrid_ratio=given.hybrid_ratio,
        context_length=context_length,
        max_total_tokens=given.max_total_tokens,
        max_running_requests=given.requests_per_group,
        chunked_prefill_size=resolved.chunked_prefill_size,
        radix_cache=given.radix_cache,
        overlap=given.overlap,
        mamba_ratio=given.mamba_ratio,
        mamba_slots=given.mamba_slots,
    )


def build_state(server: SglangServer) -> SglangState:
    """Tables, what is left and the limits of a server whose pools are known."""
    request, config, context_length, memory = server
    rules, graph_bs, rows = config.rules, config.resolved.graph_bs, server.rows
    batch = captured_batch(graph_bs, rows) if graph_bs and rows > 0 else 0
    tables: tuple[GraphTable, ...] = ()
    if batch:
        shape = _graph_shape(config, context_length, batch, rows)
        tables = graph_tables(config.resolved.decode_backend, shape, rules)
    prompt = max(1, request.context - request.output_tokens)
    activations, copies = prefill_bytes(config, prompt)
    running = activations + copies
    if memory.load.offloaded:
        running += returned_bytes(config, memory.load.offloaded)
    if config.elastic is not None and not config.elastic.pools:
        running += request.concurrency * row_bytes(context_length, request.context)
    started = memory.fixed + context_bytes(config, context_length, rows, tables, batch)
    left = request.gpu.memory_bytes - started
    return SglangState(
        request,
        config,
        context_length,
        memory,
        rows,
        batch,
        tables,
        host_tier(config, memory.sizes, request.host_memory_bytes),
        admission(config, memory.sizes, rows, context_length, request.context),
        prompt,
        left,
        left - running,
    )


def _graph_shape(config: SglangConfig, context_length: int, batch: int, rows: int) -> GraphShape:
    """The sizes an attention backend's graph state depends on."""
    chunk, window, top_k = _windows(config.model)
    attending = [layer for layer in config.model.layers if not layer.attention.keeps_no_tokens]
    pattern = attending[0] if attending else config.model.layers[0]
    return GraphShape(
        batch=batch,
        context_length=context_length,
        page_size=config.resolved.page_size,
        chunk=chunk,
        window=max(chunk, window),
        split_pools=config.layout.window_layers > 0,
        heads=max(1, pattern.num_heads // config.attention_tp),
        value_dim=pattern.value_head_dim or pattern.head_dim,
        rows=rows,
        uses_mla=config.layout.latent,
        index_top_k=top_k,
        amd=config.gpu.capability == (0, 0),
    )


@lru_cache(maxsize=64)
def _windows(model: ModelSpec) -> tuple[int, int, int]:
    """The attention chunk, the sliding window and the index top-k of a model, 0 where it has none."""
    chunks = [layer.window or 0 for layer in model.layers_of(AttentionKind.CHUNKED_LOCAL)]
    windows = [layer.window or 0 for layer in model.layers_of(AttentionKind.SLIDING_WINDOW)]
    top_k = [layer.indexer.top_k for layer in model.layers if layer.indexer]
    return max(chunks, default=0), max(windows, default=0), max(top_k, default=0)
