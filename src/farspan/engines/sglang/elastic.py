"""SGLang with farspan's plug-in (`--radix-cache-backend farspan`): what is elastic then, and what cannot be combined.

The table of requests is elastic in any server; the KV pools where all ranks run the same requests in step. Mirrors
`farspan.integrations.sglang`: `elastic_requests`, `device_memory`, `kv_pools` and `rank_agreement`.
"""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.sglang.defaults import Resolved
from farspan.engines.sglang.flags import SglangFlags
from farspan.engines.sglang.layout import SglangKvLayout
from farspan.engines.sglang.pool import PoolSizes
from farspan.engines.sglang.versions import SglangRules
from farspan.errors import UnsupportedError
from farspan.planner.engine_flags import split_environment
from farspan.planner.request import PlanRequest

BACKEND_FLAG, BACKEND = "--radix-cache-backend", "farspan"
POOLS_VARIABLE = "FARSPAN_KV_POOLS"

_ENTRY = 4  # bytes of a token in the table of requests
_EXTRA_COLUMNS = 4
_SLACK = 1024  # tokens a row has beyond what its request can get
_MAP_ENTRY = 8  # bytes a full-attention token in the map to window tokens
_SEGMENT = 2 * 2**20  # what a GPU's memory is mapped in
_MOST_MAPPINGS = 4096
_LARGEST_SEGMENT = 64 * 2**20


class ElasticServer(NamedTuple):
    """What of a server is elastic.

    Args:
        pools: Whether its KV pools are, and not its table of requests alone.
        why_not: Why its pools are not; empty where they are.
        variables: Environment variables that the server needs besides those given.
    """

    pools: bool
    why_not: str
    variables: tuple[tuple[str, str], ...]


def check_version(request: PlanRequest, rules: SglangRules) -> None:
    """Refuse the plug-in where it does not know the version, before a flag of it is found unknown there.

    Raises:
        UnsupportedError: It does not.
    """
    if request.engine_flags.get(BACKEND_FLAG) == BACKEND:
        from farspan.integrations.sglang.adapters import adapter_for

        adapter_for(rules.version)


def elastic_server(
    request: PlanRequest, given: SglangFlags, resolved: Resolved, layout: SglangKvLayout, rules: SglangRules
) -> ElasticServer | None:
    """Return what is elastic of a server with these flags; None without the plug-in.

    Raises:
        UnsupportedError: The version, the model or a flag cannot be combined with it.
    """
    if request.text_flag("", BACKEND_FLAG) != BACKEND:
        return None
    from farspan.integrations.sglang.adapters import SETTINGS, adapter_for

    adapter = adapter_for(rules.version)
    for name, (plain, why) in SETTINGS.items():
        flag = f"--{name.replace('_', '-')}"
        if request.has_flag(flag) and request.engine_flags.get(flag) not in {str(value) for value in plain}:
            raise _refusal(flag, why)
    if given.hicache is not None:
        raise _refusal("--enable-hierarchical-cache", SETTINGS["enable_hierarchical_cache"][1])
    if layout.state_bytes:
        raise _refusal(f"{request.model.name}", "models with recurrent state have another table of requests")
    asked = split_environment(request.engine_flags)[1].get(POOLS_VARIABLE, "")
    reasons = {
        f"of {POOLS_VARIABLE}=sglang": asked == "sglang",
        "pipeline stages run the same requests at different times": given.pipeline_stages > 1,
        "ranks of data-parallel attention have requests of their own": given.attention_groups > 1,
        f"with {resolved.attention_backend} Llama 4 reads window layers by the slots of full attention": (
            request.model.architecture.startswith("Llama4")
            and bool(layout.window_layers)
            and resolved.attention_backend != "fa3"
        ),
        "with --enable-mixed-chunk and pages SGLang 0.5.16 decodes without asking for memory": (
            adapter.mixes_unchecked and resolved.page_size > 1 and request.has_flag("--enable-mixed-chunk")
        ),
        "MLA has a pool of another kind": layout.latent,
        "sparse attention has pools of another kind": bool(layout.indexer_bytes),
    }
    why_not = next((why for why, holds in reasons.items() if holds), "")
    variables = ((POOLS_VARIABLE, "sglang"),) if why_not and not asked else ()
    return ElasticServer(not why_not, why_not, variables)


def grown_pools(
    sizes: PoolSizes, available: float, layout: SglangKvLayout, settings_chunk: int, context: int, page: int
) -> PoolSizes:
    """Return the sizes that elastic pools may grow to within the bytes that SGLang's own would be made of.

    Args:
        sizes: SGLang's own.
        available: Bytes the pools are sized from.
        layout: Bytes a token.
        settings_chunk: --chunked-prefill-size.
        context: --context-length.
        page: Tokens a page.
    """
    layers = layout.full_layers + layout.window_layers
    part = max(_SEGMENT, page * max(layout.full_layer_bytes, layout.window_layer_bytes) // 2)
    overhead = 4 * 2 * layers * part + context * _ENTRY + 8 * _SEGMENT
    if not layout.window_layers:
        full = int((available - overhead) // layout.cell_bytes) // page * page
        return sizes._replace(full_tokens=min(full, sizes.full_tokens))
    step = settings_chunk if settings_chunk > 0 else context
    window = (layout.window + 2 * step + 2 * page) * layout.window_cell_bytes
    most = int((available - overhead - window) // (layout.cell_bytes + _MAP_ENTRY)) // page * page
    both = min(most, int(available // (layout.cell_bytes + layout.window_cell_bytes)) // page * page)
    return sizes._replace(full_tokens=most, window_tokens=both)


def row_bytes(context_length: int, tokens: int | None = None) -> int:
    """Return what a row of the table has memory for: a whole one, or one whose request ends at `tokens`."""
    width = context_length + _EXTRA_COLUMNS
    return _ENTRY * (width if tokens is None else min(width, tokens + _SLACK))


def table_segment(total: int, pools: bool) -> int:
    """Return the unit of the table's memory: the pools' own, or one that keeps its mappings few."""
    size = _SEGMENT
    while not pools and total > size * _MOST_MAPPINGS and size < _LARGEST_SEGMENT:
        size *= 2
    return size


def idle_table_bytes(rows: int, context_length: int, pools: bool) -> int:
    """Return what the table of an idle server has: its padding row, one row in reserve, a piece of zeros."""
    row = row_bytes(context_length)
    segment = table_segment(rows * row, pools)
    return (2 * -(-row // segment) + 2) * segment


def idle_pool_bytes(layout: SglangKvLayout, page: int) -> int:
    """Return what elastic pools have when nothing is in them: memory of keys and of values for a page, a layer."""
    kinds = (layout.full_layers, layout.full_layer_bytes), (layout.window_layers, layout.window_layer_bytes)
    pools = sum(2 * layers * -(-page * token // (2 * _SEGMENT)) * _SEGMENT for layers, token in kinds)
    return pools + (_SEGMENT if layout.window_layers else 0)


def _refusal(what: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"--elastic ({BACKEND_FLAG} {BACKEND}) does not work with {what}: {why}",
        "plan without one of the two",
    )
