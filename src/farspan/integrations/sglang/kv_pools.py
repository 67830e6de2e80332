"""SGLang's KV pools in elastic memory, and how large they may become.

A pool has the addresses of what the whole budget would hold if it were all its own, and the memory of what is used:
slots get memory a segment at a time, in all layers together. Slot 0, where SGLang's kernels write what is padding,
always has some.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from farspan.errors import UnsupportedError
from farspan.integrations.sglang.adapters import LEAVE_POOLS
from farspan.integrations.sglang.device_memory import DeviceMemory
from farspan.kv.memory.pages import PagePool

_MEMORY = "sglang.srt.mem_cache.memory_pool"
_MAP_ENTRY = 8  # bytes a full-attention slot of the map to window slots


def kv_pool_class(base: type, memory: DeviceMemory) -> type:
    """Return SGLang's class of KV pools, with its buffers in `memory`.

    Raises:
        UnsupportedError: `base` is not the plain pool of keys and values by token.
    """
    plain = import_module(_MEMORY).MHATokenToKVPool
    if base is not plain:
        raise UnsupportedError(
            f"--radix-cache-backend farspan does not know KV pools of the kind {base.__name__}",
            LEAVE_POOLS,
        )

    class ElasticMHATokenToKVPool(plain):  # type: ignore[misc, valid-type]
        """See `MHATokenToKVPool`; its buffers are views of elastic ranges.

        Attributes:
            elastic_pages: Which of its pages have memory, and who has them.
        """

        elastic_pages: PagePool
        elastic_memory = memory

        def _create_buffers_normal(self) -> None:
            keys, values = self._kv_buffer_shapes()
            rows = self.size + self.page_size
            plain_rows = (keys[0], values[0]) == (rows, rows) and self.kv_cache_layout == "nhd"
            if not plain_rows or self.enable_custom_mem_pool or rows % self.page_size:
                raise UnsupportedError(
                    f"--radix-cache-backend farspan does not know KV buffers of {keys} for {rows} tokens",
                    LEAVE_POOLS,
                )
            shapes = [keys] * self.layer_num + [values] * self.layer_num
            row_bytes = [int(np.prod(shape[1:])) * self.store_dtype.itemsize for shape in shapes]
            pages = memory.at_start(
                lambda: PagePool(memory.segments, row_bytes, self.page_size, rows // self.page_size)
            )
            views = [
                pages.layer(number).view(self.store_dtype).view(shape) for number, shape in enumerate(shapes)
            ]

            def fill_with_zeros(low: int, high: int) -> None:
                # What kernels read of a page beyond its last token is multiplied by zero, and must be a number.
                for view in views:
                    view[low * self.page_size : high * self.page_size].zero_()

            fill_with_zeros(0, pages.backed_stop)
            pages.prepare_with(fill_with_zeros)
            pages.map_late()  # while the device computes the chunk before
            self.elastic_pages = pages
            self.k_buffer, self.v_buffer = views[: self.layer_num], views[self.layer_num :]

    return ElasticMHATokenToKVPool


def elastic_config(
    configurator: Any, config: Any, budget_bytes: int, segment_bytes: int, chunk: int | None
) -> Any:
    """Return SGLang's sizes of the pools, made as large as each could become within `budget_bytes`.

    The full-attention pool may hold what is left beside the window that one request needs; the window pool what both
    hold when they hold the same tokens, since it never holds one that the other does not. Every request that fits the
    first can be served when it is alone.

    Raises:
        UnsupportedError: SGLang counts the bytes of a token in another way than the plug-in knows.
    """
    sizes = import_module("sglang.srt.model_executor.pool_configurator").create_memory_pool_configurator(
        configurator
    )
    page = configurator.page_size
    overhead = _overhead_bytes(configurator, sizes, segment_bytes)
    if not configurator.is_hybrid_swa:
        full = _whole_pages((budget_bytes - overhead) // _attribute(sizes, "_cell_size"), page)
        full = configurator._apply_token_constraints(min(full, config.max_total_num_tokens))
        return replace(config, max_total_num_tokens=full)
    full_bytes, window_bytes = token_bytes(sizes)
    window = window_tokens(configurator, chunk) * window_bytes
    most = (budget_bytes - overhead - window) // (full_bytes + _MAP_ENTRY)
    most = configurator._apply_token_constraints(_whole_pages(most, page))
    both = _whole_pages(min(most, budget_bytes // (full_bytes + window_bytes)), page)
    return replace(
        config,
        max_total_num_tokens=most,
        full_max_total_num_tokens=most,
        swa_max_total_num_tokens=both,
    )


def token_bytes(sizes: Any) -> tuple[int, int]:
    """Return the bytes of a token in all full-attention layers, and in all window layers, as SGLang counts."""
    full = _attribute(sizes, "_full_per_token") * _attribute(sizes, "_full_layers_num")
    window = _attribute(sizes, "_swa_per_token") * _attribute(sizes, "_swa_layers_num")
    if full <= 0 or window <= 0:
        raise UnsupportedError(
            "--radix-cache-backend farspan does not know models without full attention or without a window in the pool",
            LEAVE_POOLS,
        )
    return int(full), int(window)


def window_tokens(configurator: Any, chunk: int | None) -> int:
    """Return the most window tokens that one request holds: its window, a running chunk and the next one."""
    step = chunk if chunk and chunk > 0 else configurator.model_config.context_len
    return int(configurator.sliding_window_size) + 2 * int(step) + 2 * int(configurator.page_size)


def _overhead_bytes(configurator: Any, sizes: Any, segment_bytes: int) -> int:
    """Return what one request takes beside its tokens: a row, and four segments a layer that are not full.

    A page that is larger than a segment takes several.
    """
    layers = [getattr(sizes, name, 0) for name in ("_full_layers_num", "_swa_layers_num")]
    count = sum(layers) or configurator.layer_info.num_effective_layers
    row = configurator.model_config.context_len * 4
    if any(layers):
        token = max(_attribute(sizes, "_full_per_token"), _attribute(sizes, "_swa_per_token"))
    else:
        token = _attribute(sizes, "_cell_size") / count
    part = max(segment_bytes, configurator.page_size * token / 2)  # of keys or of values
    return int(4 * 2 * count * part + row + 8 * segment_bytes)


def _whole_pages(tokens: float, page: int) -> int:
    return int(tokens) // page * page


def _attribute(sizes: Any, name: str) -> Any:
    try:
        return getattr(sizes, name)
    except AttributeError as error:
        raise UnsupportedError(
            f"SGLang's {type(sizes).__name__} has no {name}, which the plug-in must read",
            LEAVE_POOLS,
        ) from error
