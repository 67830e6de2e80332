"""Slow forms of the kernels with which SGLang 0.5.16 hands out the slots of pages, which run on a GPU only."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch


class SlowKernel:
    """What is launched over a grid as a compiled kernel is."""

    def __init__(self, slow: Callable[..., None]) -> None:
        self.slow = slow

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.slow


def install_page_kernels() -> None:
    """Have SGLang's allocator of pages run on the CPU; 0.5.23's does by itself."""
    paged = import_module("sglang.srt.mem_cache.allocator.paged")
    if hasattr(paged, "alloc_decode_naive"):
        return

    def extend(prefix: Any, stop: Any, last: Any, free: Any, out: Any, _width: int, page: int) -> None:
        paged.alloc_extend_naive(prefix, stop, last, free, out, page, "cpu")

    paged.alloc_extend_kernel = SlowKernel(extend)
    paged.alloc_decode_kernel = SlowKernel(_decode)


def _decode(
    stop: torch.Tensor, last: torch.Tensor, free: torch.Tensor, out: torch.Tensor, _width: int, page: int
) -> None:
    pages = iter(free.tolist())
    for number, (length, before) in enumerate(zip(stop.tolist(), last.tolist(), strict=True)):
        out[number] = next(pages) * page if length % page == 1 else before + 1
