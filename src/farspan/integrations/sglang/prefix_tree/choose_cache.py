"""Which prefix tree a server gets: farspan's, or SGLang's own where it is asked for or does what farspan's does not."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import Any

from farspan.errors import InputError
from farspan.integrations.sglang.prefix_tree.cache_0_5_16 import CacheMethods16
from farspan.integrations.sglang.prefix_tree.cache_0_5_23 import CacheMethods23
from farspan.integrations.sglang.prefix_tree.linear_cache import LinearCache, cache_class

TREE_VARIABLE = "FARSPAN_PREFIX_TREE"

# Option of the server -> (what it may be, why SGLang's own tree serves another value).
_OPTIONS: dict[str, tuple[tuple[Any, ...], str]] = {
    "radix_eviction_policy": (("lru",), "only the order of last use is known to farspan's"),
    "schedule_policy": (
        ("fcfs", "lpm", "random", "lof", "routing-key", "hrrn", "shortest-prefill-first"),
        "it walks SGLang's nodes",
    ),
    "enable_streaming_session": ((False, None), "sessions keep parts of the tree"),
    "enable_session_radix_cache": ((False, None), "sessions keep parts of the tree"),
    "enable_lmcache": ((False, None), "it is a tree of its own"),
    "enable_flexkv": ((False, None), "it is a tree of its own"),
}
# The same of options that not every version has.
_NEW_OPTIONS: dict[str, tuple[tuple[Any, ...], str]] = {
    "enable_unified_cache_external_linker": ((False, None), "it is a tree of its own"),
}
# What a cache is built with, where a version has it -> (what it may be, why SGLang's own tree serves another value).
_PARAMS: dict[str, tuple[tuple[Any, ...], str]] = {
    "is_eagle": ((False, None), "keys are pairs of tokens"),
    "enable_kv_cache_events": ((False, None), "farspan's publishes no events"),
    "swa_gates_prefix_match": ((True,), "window layers' KV is not the tree's"),
    "decoder_swa_bounded_replay": ((False, None), "windows are computed again"),
    "draft_swa_window": ((0, None), "a draft reads window layers too"),
    "mtp_draft_device_pools": (((), None), "drafts have pools of their own"),
    "sidecar_draft_device_pools": (((), None), "drafts have pools of their own"),
}
_METHODS: dict[str, type[LinearCache]] = {"0.5.16": CacheMethods16, "0.5.23": CacheMethods23}

logger = logging.getLogger("sglang.farspan")


def build_cache(version: str, context: Any, options: Any) -> Any:
    """Return the prefix cache for a server; the log says which, and why where it is SGLang's own.

    Args:
        version: SGLang's.
        context: SGLang's `TreeCacheBuildContext`.
        options: Of the server, as they hold; those of the context are as they were given.

    Raises:
        InputError: `FARSPAN_PREFIX_TREE` is no tree.
    """
    reason = why_sglangs(version, context, options)
    if reason:
        logger.info(f"farspan: the prefix tree is SGLang's own: {reason}")
        return import_module("sglang.srt.mem_cache.registry").default_radix_cache_factory(context)
    params = context.params
    kinds = (
        f"a window of {params.sliding_window_size:,} tokens"
        if params.sliding_window_size
        else "one kind of layers"
    )
    logger.info(f"farspan: the prefix tree is farspan's, {kinds}, pages of {params.page_size} tokens")
    return cache_class(_METHODS[version])(params)


def why_sglangs(version: str, context: Any, options: Any) -> str | None:
    """Return why a server gets SGLang's own tree; None when it gets farspan's. See `build_cache`."""
    asked = os.environ.get(TREE_VARIABLE, "farspan")
    if asked not in ("farspan", "sglang"):
        raise InputError(f"{TREE_VARIABLE} is {asked!r}", "set it to farspan or sglang")
    if asked == "sglang":
        return f"{TREE_VARIABLE}=sglang"
    if version not in _METHODS:
        return f"farspan has none for SGLang {version}"
    if context.disable_radix_cache or context.params.disable:
        return "--disable-radix-cache"
    if context.is_hybrid_ssm:
        return "the model has recurrent state"
    if context.is_hybrid_swa and not context.full_tokens_per_layer:
        return "every layer of the model has a window"
    for name, (plain, why) in _OPTIONS.items():
        value = getattr(options, name)
        if value not in plain:
            return f"--{name.replace('_', '-')} {value}: {why}"
    for name, (plain, why) in _NEW_OPTIONS.items():
        value = getattr(options, name, plain[0])
        if value not in plain:
            return f"--{name.replace('_', '-')} {value}: {why}"
    return _why_params(context)


def _why_params(context: Any) -> str | None:
    params = context.params
    if context.enable_hierarchical_cache:
        return "--enable-hierarchical-cache: pages in host memory were not tried"
    if getattr(context.tp_worker.model_runner, "prefill_aware_swa", False):
        return "what window layers keep of prompts is not theirs alone in this model"
    for name, (plain, why) in _PARAMS.items():
        value = getattr(params, name, plain[0])
        if value not in plain:
            return f"{name} {value}: {why}"
    if type(params.token_to_kv_pool_allocator).__name__ == "PageInterleavePoolAllocator":
        return "pages are spread over ranks"
    switch = getattr(import_module("sglang.srt.environ").envs, "SGLANG_EXPERIMENTAL_CPP_RADIX_TREE", None)
    if switch is not None and switch.get():
        return "SGLANG_EXPERIMENTAL_CPP_RADIX_TREE"
    return None
