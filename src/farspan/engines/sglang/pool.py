"""How many tokens SGLang's KV pools hold: the split of what is left after loading.

Mirrors `profile_max_num_token`, `set_num_token_hybrid`, `handle_max_mamba_cache` (0.5.6.post2
srt/model_executor/model_runner.py) and `DefaultPoolConfigurator`, `HybridSWAPoolConfigurator`,
`SWARequestCapPoolConfigurator` (0.5.16, 0.5.23 srt/model_executor/pool_configurator.py),
`_handle_max_mamba_cache` (srt/mem_cache/kv_cache_configurator.py).
"""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.sglang.layout import SglangKvLayout
from farspan.engines.sglang.versions import SglangRules
from farspan.errors import FarspanError

_EVICTION_INTERVAL = 128  # SGLANG_SWA_EVICTION_INTERVAL
_MAMBA_SLOTS_PER_REQUEST = 3


class PoolError(FarspanError):
    """SGLang would stop while sizing its pools: the server does not start with these flags."""


class PoolSizes(NamedTuple):
    """What the pools hold.

    Args:
        full_tokens: `full_layer_tokens`, and `max_total_num_tokens`.
        window_tokens: `swa_layer_tokens`; 0 when there is one pool.
        row_tokens: Tokens the request slots follow: before 0.5.16 all layers alike, before any cap.
        state_slots: `max_mamba_cache_size`; 0 without recurrent layers.
        state_bytes: Bytes of the recurrent-state pool, its padding slot included.
    """

    full_tokens: int
    window_tokens: int
    row_tokens: int
    state_slots: int
    state_bytes: int


NO_POOLS = PoolSizes(0, 0, 0, 0, 0)


class SplitSettings(NamedTuple):
    """What decides the split: tokens a page, the ratio, and the requests the window pool must hold."""

    page_size: int
    swa_ratio: float
    hybrid_ratio: float | None
    context_length: int
    max_total_tokens: int | None
    max_running_requests: int | None
    chunked_prefill_size: int
    radix_cache: bool
    overlap: bool
    mamba_ratio: float
    mamba_slots: int | None


def solve_pools(
    available: float, layout: SglangKvLayout, settings: SplitSettings, rules: SglangRules
) -> PoolSizes:
    """Turn the bytes left for KV into pool sizes.

    Raises:
        PoolError: SGLang stops here: no token fits, or the window pool cannot hold one request.
    """
    slots, state_bytes = _state_pool(available, layout, settings, rules)
    rest = available - state_bytes
    if rest <= 0:
        raise no_token()
    row_tokens = 0
    page = settings.page_size
    if rules.hybrid_flag and layout.window_layers and page > 1:
        raise PoolError(f"sglang {rules.version} splits its pools at page size 1 only", "use --page-size 1")
    if rules.splits_layers_alike or (rules.splits_profiled_tokens and layout.full_layers):
        full, window, row_tokens = _split_profiled_tokens(rest, layout, settings, rules)
    elif layout.window_layers and _sized_by_requests(layout, settings, rules):
        window = _align_up(_request_cap(layout, settings), page)
        full = int((int(rest) - window * layout.window_cell_bytes) // layout.cell_bytes) // page * page
        if settings.max_total_tokens is not None and settings.max_total_tokens < full:
            full = settings.max_total_tokens // page * page
            window = min(window, settings.max_total_tokens)
    elif layout.window_layers:
        cell = layout.cell_bytes + settings.swa_ratio * layout.window_layer_bytes * layout.window_layers
        if layout.full_layers == 0:
            cell = float(layout.window_cell_bytes)
        tokens = _capped(int(int(rest) // cell), settings) // page * page
        window = tokens if layout.full_layers == 0 else int(tokens * settings.swa_ratio) // page * page
        full = tokens
        if layout.full_layers and layout.window + page >= window:
            raise PoolError(
                f"the window pool of {window} tokens cannot hold one request (it needs more than "
                f"{layout.window + page})",
                "raise --swa-full-tokens-ratio or --mem-fraction-static",
            )
    else:
        full = _capped(int(rest) // layout.cell_bytes // page * page, settings) // page * page
        window = 0
    if full <= 0:
        raise no_token()
    return PoolSizes(full, window, row_tokens or full, slots, state_bytes)


def no_token() -> PoolError:
    """Return what SGLang says where there is no room for anything."""
    return PoolError("no KV token fits beside the weights", "raise --mem-fraction-static or use more GPUs")


def pool_bytes(tokens: int, layers: int, layer_bytes: int, page_size: int) -> int:
    """Bytes of one pool's buffers: a padding page at the front of every layer (`_create_buffers`)."""
    return (tokens + page_size) * layers * layer_bytes if layers else 0


def _split_profiled_tokens(
    rest: float, layout: SglangKvLayout, settings: SplitSettings, rules: SglangRules
) -> tuple[int, int, int]:
    """Up to 0.5.10: tokens of all layers first, then shared out (`init_memory_pool`, `set_num_token_hybrid`; from
    0.5.9 by bytes, `_resolve_hybrid_swa_tokens`).

    Returns full tokens, window tokens, and the tokens profiled before either.
    """
    layers = layout.full_layers + layout.window_layers
    page = settings.page_size
    cell = layers * layout.full_layer_bytes + layout.indexer_bytes
    if not rules.splits_layers_alike:
        cell = layout.cell_bytes + layout.window_cell_bytes
    profiled = int(rest // cell)
    tokens = _capped(profiled, settings) // page * page
    if not layout.window_layers:
        return tokens, 0, profiled
    if settings.hybrid_ratio is not None:  # Llama 4, one full layer in four
        ratio = settings.hybrid_ratio
        share = (1 - ratio) + ratio * layout.window / settings.context_length
        window = 4 * tokens * share // (3 * share + 1)
        full = 4 * tokens - 12 * tokens * share // (3 * share + 1)
        return int(full // page * page), int(window // page * page), profiled
    if rules.splits_layers_alike:
        full = int(tokens * layers / (settings.swa_ratio * layout.window_layers + layout.full_layers))
        window = int(full * settings.swa_ratio)
    else:
        full = int(tokens * cell / (layout.cell_bytes + settings.swa_ratio * layout.window_cell_bytes))
        window = int(full * settings.swa_ratio)
    return full // page * page, window // page * page, profiled


def _sized_by_requests(layout: SglangKvLayout, settings: SplitSettings, rules: SglangRules) -> bool:
    """`SWARequestCapPoolConfigurator.is_applicable`."""
    return (
        rules.sizes_window_by_requests
        and settings.max_running_requests is not None
        and not settings.radix_cache
        and (settings.chunked_prefill_size > 0 or not rules.sizing_needs_chunks)
        and layout.full_layers > 0
    )


def _request_cap(layout: SglangKvLayout, settings: SplitSettings) -> int:
    """Window-pool tokens the scheduler may hold at once (0.5.23 `compute_swa_request_cap`)."""
    assert settings.max_running_requests is not None
    chunks = 2 if settings.overlap else 1
    return (
        window_tokens_per_request(layout, settings.page_size) * max(1, settings.max_running_requests)
        + chunks * settings.chunked_prefill_size
        + settings.page_size
    )


def window_tokens_per_request(layout: SglangKvLayout, page_size: int) -> int:
    """Window-pool tokens one decoding request may hold: its window, what is not yet evicted, and pages."""
    return layout.window + _EVICTION_INTERVAL + page_size + page_size


def _state_pool(
    available: float, layout: SglangKvLayout, settings: SplitSettings, rules: SglangRules
) -> tuple[int, int]:
    """Slots and bytes of the recurrent-state pool, taken off before tokens are counted."""
    per_request = layout.state_bytes
    if not per_request:
        return 0, 0
    budget = available * settings.mamba_ratio / (1 + settings.mamba_ratio)
    if rules.state_slots_rule < 2:
        if settings.radix_cache and not (rules.state_slots_rule and settings.mamba_slots):
            slots = int(budget // per_request)
        else:
            slots = settings.mamba_slots or settings.max_running_requests or 512
    elif settings.mamba_slots is not None:
        slots = settings.mamba_slots
    elif not settings.radix_cache and settings.max_running_requests is not None:
        slots = max(1, settings.max_running_requests)
    else:
        slots = int((budget - (per_request if rules.mamba_padding_slot else 0)) // per_request)
    if slots <= 0:
        raise PoolError("no recurrent state fits", "raise --mem-fraction-static or use more GPUs")
    return slots, (slots + (1 if rules.mamba_padding_slot else 0)) * per_request


def requests_by_state(slots: int, rules: SglangRules, *, radix_cache: bool, overlap: bool) -> int:
    """Requests the recurrent-state slots allow (`_calculate_mamba_ratio`): three slots a request while the
    prefix tree keeps copies, and from 0.5.14 one or two more that track the state being written."""
    if not radix_cache:
        return slots
    tracking = (2 if overlap else 1) if rules.tracks_states else 0
    return slots // (_MAMBA_SLOTS_PER_REQUEST + tracking)


def _capped(tokens: int, settings: SplitSettings) -> int:
    return tokens if settings.max_total_tokens is None else min(tokens, settings.max_total_tokens)


def _align_up(value: int, page: int) -> int:
    return -(-value // page) * page
