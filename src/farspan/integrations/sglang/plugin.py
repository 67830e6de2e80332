"""The entry point: what SGLang calls in each of its processes before anything is built.

SGLang logs and swallows what a plug-in raises. So nothing here may be needed for safety: a server that asked for the
backend and did not get it must stop by itself. Without `register` the name is unknown and SGLang stops; without the
hooks `build_prefix_cache` finds SGLang's own table and stops it.
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import version
from typing import Any

from farspan.errors import UnsupportedError
from farspan.integrations.sglang.adapters import BACKEND, Adapter, adapter_for, check_seams, option
from farspan.integrations.sglang.elastic_requests import elastic_pool
from farspan.integrations.sglang.kv_hooks import KVHooks, check_settings, tick_when_idle
from farspan.integrations.sglang.prefix_tree.choose_cache import build_cache

_SRT = "sglang.srt"
_BUILDER = f"{_SRT}.mem_cache.kv_cache_configurator.KVCacheConfigurator._build_default_req_pool"
_IDLE = f"{_SRT}.managers.scheduler.Scheduler.on_idle"

logger = logging.getLogger("sglang.farspan")


def register() -> None:
    """Make the backend known to SGLang and hook what builds its table of requests.

    Raises:
        UnsupportedError: This is not a version of SGLang the plug-in knows, or it has another shape.
    """
    adapter = adapter_for(version("sglang"))
    check_seams(adapter)
    hooks = import_module(f"{_SRT}.plugins.hook_registry")
    kv = KVHooks(adapter)

    def build_request_pool(original: Any, configurator: Any, **sizes: int) -> Any:
        return _build_request_pool(adapter, kv, original, configurator, **sizes)

    def build_tree(context: Any) -> Any:
        kv.check_pools(context)
        return build_prefix_cache(adapter, context)

    hooks.HookRegistry.register(_BUILDER, build_request_pool, hooks.HookType.AROUND)
    hooks.HookRegistry.register(_IDLE, _after_idle, hooks.HookType.AFTER)
    kv.register(hooks)
    import_module(f"{_SRT}.mem_cache.registry").register_radix_cache_backend(BACKEND, build_tree)


def build_prefix_cache(adapter: Adapter, context: Any) -> Any:
    """Return the prefix cache, after making sure that the table of requests is elastic.

    Raises:
        UnsupportedError: It is not: this model or mode has a table of another kind.
    """
    pool = context.params.req_to_token_pool
    if not hasattr(pool, "elastic_table"):
        raise UnsupportedError(
            f"--radix-cache-backend {BACKEND} found a request table of the kind {type(pool).__name__}, which is not "
            "its own: models with recurrent state and disaggregated decoding have such",
            "start without the option",
        )
    return build_cache(adapter.version, context, adapter.options(context.server_args))


def _build_request_pool(
    adapter: Adapter,
    kv: KVHooks,
    original: Any,
    configurator: Any,
    *,
    max_num_reqs: int,
    extra_max_context_len: int,
) -> Any:
    arguments = adapter.options(configurator.server_args)
    if option(arguments, "radix_cache_backend") != BACKEND:
        return original(configurator, max_num_reqs=max_num_reqs, extra_max_context_len=extra_max_context_len)
    check_settings(arguments)
    width = configurator.model_config.context_len + extra_max_context_len
    memory = kv.memory_for_table(configurator, max_num_reqs, width)
    pool = elastic_pool(adapter, max_num_reqs, width, configurator.device, memory)
    logger.info(pool.elastic_table.describe())
    return pool


def _after_idle(_result: Any, scheduler: Any) -> None:
    table = getattr(scheduler.req_to_token_pool, "elastic_table", None)
    if table is not None:
        table.tick()
        tick_when_idle(scheduler)
