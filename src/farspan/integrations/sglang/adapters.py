"""What differs between the versions of SGLang the plug-in knows, and the shape of everything it touches in them.

A version is known by number and by shape: every function the plug-in hooks, calls or replaces is compared with the
signature it was written against, because a fork or a patched container keeps the number.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from farspan.errors import UnsupportedError
from farspan.integrations.sglang.free_groups import FlaggedGroups, FreeGroups, ListedGroups
from farspan.integrations.sglang.kv_seams import KV_SHAPES
from farspan.integrations.sglang.prefill_needs import AdderCounts, AdmissionCounts, BudgetCounts
from farspan.integrations.sglang.prefix_tree.tree_seams import TREE_SHAPES

BACKEND = "farspan"  # of --radix-cache-backend
POOLS_VARIABLE = "FARSPAN_KV_POOLS"
LEAVE_POOLS = f"set {POOLS_VARIABLE}=sglang to leave the pools to SGLang"

_NO = (None, False, "null", 0, 1)

# Option -> (values it may have, why another cannot be had).
SETTINGS: dict[str, tuple[tuple[Any, ...], str]] = {
    "enable_memory_saver": (_NO, "it moves the memory itself"),
    "disaggregation_mode": (_NO, "tables of rows that are filled from elsewhere were not tried"),
    "speculative_algorithm": (_NO, "drafts write past the end a request was admitted for"),
    "enable_unified_memory": (_NO, "it is another owner of the same memory"),
    "enable_hisparse": (_NO, "it has tables of its own beside this one"),
    "enable_hierarchical_cache": (_NO, "it was not tried"),
    "dllm_algorithm": (_NO, "blocks are written past the end a request was admitted for"),
    "dcp_size": (_NO, "the table is split there"),
}

_MEMORY = "sglang.srt.mem_cache"
_OPTIONS = "sglang.srt.arg_groups.model_override_base"
_POOL = f"{_MEMORY}.memory_pool:ReqToTokenPool"
_SHAPES = {
    f"{_POOL}.__init__": "(self, size, max_context_len, device, enable_memory_saver)",
    f"{_POOL}.alloc": "(self, reqs)",
    f"{_POOL}.free": "(self, req)",
    f"{_POOL}.clear": "(self)",
    f"{_POOL}.available_size": "(self)",
    f"{_MEMORY}.kv_cache_configurator:KVCacheConfigurator._build_default_req_pool": (
        "(self, *, max_num_reqs, extra_max_context_len)"
    ),
    f"{_MEMORY}.registry:register_radix_cache_backend": "(name, factory)",
    f"{_MEMORY}.registry:default_radix_cache_factory": "(ctx)",
    "sglang.srt.managers.scheduler:Scheduler.on_idle": "(self)",
    "sglang.srt.plugins.hook_registry:HookRegistry.register": "(target, hook, hook_type, *, source)",
}


@dataclass(frozen=True)
class Adapter:
    """One version of SGLang.

    Attributes:
        version: Its number.
        takes_last: Rows are taken from the end of the free list; from its start otherwise.
        request_state: Attribute of a request that holds its row; empty when the request does.
        row_calls: Rows are taken and given back by `alloc_rows` and `free_rows`, also for no request.
        declares_options: What SGLang decides of the server's options stands beside what was given.
        mixes_unchecked: With --enable-mixed-chunk it decodes beside a prompt without asking whether there is memory.
        admission: Where its counts of an admission are.
        free_groups: How its allocators put off what is freed in a group.
        shapes: `module:attribute` of everything used -> its parameters.
    """

    version: str
    takes_last: bool
    request_state: str
    row_calls: bool
    declares_options: bool
    mixes_unchecked: bool
    admission: AdmissionCounts
    free_groups: FreeGroups
    shapes: Mapping[str, str]

    def options(self, arguments: Any) -> Any:
        """Return the server's options as they hold: given, by default, or by what SGLang decided for a model."""
        return import_module(_OPTIONS).resolved_view(arguments) if self.declares_options else arguments

    def evict(self, tree: Any, full: int, window: int) -> None:
        """Evict so many tokens of full attention and of the window from SGLang's prefix cache."""
        parameters = import_module(f"{_MEMORY}.base_prefix_cache").EvictParams
        tree.evict(parameters(num_tokens=full, swa_num_tokens=window))

    def row(self, request: Any) -> int | None:
        """Return the row of a request, None when it has none."""
        state = getattr(request, self.request_state) if self.request_state else request
        row: int | None = state.req_pool_idx
        return row


ADAPTERS = {
    adapter.version: adapter
    for adapter in (
        Adapter(
            "0.5.16",
            takes_last=False,
            request_state="",
            row_calls=False,
            declares_options=False,
            mixes_unchecked=True,
            admission=AdderCounts(),
            free_groups=FlaggedGroups(),
            shapes=_SHAPES | TREE_SHAPES["0.5.16"] | KV_SHAPES["0.5.16"],
        ),
        Adapter(
            "0.5.23",
            takes_last=True,
            request_state="kv",
            row_calls=True,
            declares_options=True,
            mixes_unchecked=False,
            admission=BudgetCounts(),
            free_groups=ListedGroups(),
            shapes=_SHAPES
            | TREE_SHAPES["0.5.23"]
            | KV_SHAPES["0.5.23"]
            | {
                f"{_POOL}.alloc_rows": "(self, need_size)",
                f"{_POOL}.free_rows": "(self, indices)",
                f"{_OPTIONS}:resolved_view": "(server_args)",
            },
        ),
    )
}


def option(arguments: Any, name: str) -> Any:
    """Return an option of the server.

    Raises:
        UnsupportedError: SGLang has no such option.
    """
    try:
        return getattr(arguments, name)
    except AttributeError as error:
        raise UnsupportedError(
            f"this SGLang has no option {name}, which the plug-in must read",
            "use a version it knows: see docs/sglang.md",
        ) from error


def adapter_for(version: str) -> Adapter:
    """Return the adapter of a version of SGLang.

    Raises:
        UnsupportedError: The plug-in does not know the version.
    """
    adapter = ADAPTERS.get(version)
    if adapter is None:
        raise UnsupportedError(
            f"the plug-in does not know SGLang {version}", f"use one of {', '.join(sorted(ADAPTERS))}"
        )
    return adapter


def check_seams(adapter: Adapter) -> None:
    """Compare the installed SGLang with the shapes the adapter was written against.

    Raises:
        UnsupportedError: Something is missing or has other parameters.
    """
    for place, expected in adapter.shapes.items():
        found = shape(place)
        if found != expected:
            raise UnsupportedError(
                f"{place} of this SGLang {adapter.version} takes {found or 'nothing: it is missing'} and the plug-in "
                f"expects {expected}",
                "use an unmodified SGLang",
            )


def shape(place: str) -> str | None:
    """Return the parameters of `module:attribute` as text, without annotations and defaults; None if it is missing."""
    module, _, path = place.partition(":")
    found: Any = import_module(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    if found is None:
        return None
    parameters = [
        each.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty)
        for each in inspect.signature(inspect.unwrap(found)).parameters.values()
    ]
    return f"({', '.join(_names(parameters))})"


def _names(parameters: list[inspect.Parameter]) -> list[str]:
    names: list[str] = []
    for each in parameters:
        if each.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in names:
            names.append("*")
        names.append(str(each))
    return names
