"""Prefix trees under one interface, for benchmarks/prefix_tree.py: farspan's, and SGLang's from unpacked releases.

Each does per chunk what its engine does: farspan extends a locked cursor; SGLang (0.5.6.post2
`RadixCache.cache_unfinished_req`, 0.5.23 `UnifiedRadixCache.checkpoint_into_tree`) takes the key of the whole prompt so
far, inserts it, reads back the indices, and moves the lock. Tokens come in each one's own container.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from array import array
from pathlib import Path
from typing import Any

import numpy as np

STUBS = Path(__file__).resolve().parent.parent / "tests/engines/sglang"


class Subject(ABC):
    """A prefix tree of one page size; `fresh` empties it."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size

    @abstractmethod
    def fresh(self) -> None: ...

    @abstractmethod
    def tokens(self, ids: np.ndarray) -> Any:
        """Token ids as the tree's engine keeps them."""

    @abstractmethod
    def pages(self, first: int, tokens: int) -> Any:
        """Indices for `tokens` tokens, the first of them `first`."""

    @abstractmethod
    def insert(self, tokens: Any, pages: Any) -> None: ...

    @abstractmethod
    def match(self, tokens: Any) -> int:
        """Look tokens up, take all indices as one array, return their number of tokens."""

    @abstractmethod
    def open(self, tokens: Any, pages: Any) -> None:
        """Get ready to store one prompt chunk by chunk."""

    @abstractmethod
    def chunk(self, stop: int) -> None:
        """Store the prompt up to token `stop`."""


class Farspan(Subject):
    def fresh(self) -> None:
        from farspan.kv.tree.radix import RadixTree

        self.tree = RadixTree(self.page_size)

    def tokens(self, ids: np.ndarray) -> Any:
        return ids.astype(np.int32)

    def pages(self, first: int, tokens: int) -> Any:
        return np.arange(first // self.page_size, (first + tokens) // self.page_size, dtype=np.int32)

    def insert(self, tokens: Any, pages: Any) -> None:
        self.tree.insert(tokens, pages)

    def match(self, tokens: Any) -> int:
        return len(self.tree.match(tokens).pages) * self.page_size

    def match_pieces(self, tokens: Any) -> int:
        """Look tokens up and take the indices as the pieces the tree stores."""
        return sum(map(len, self.tree.match(tokens).page_arrays)) * self.page_size

    def open(self, tokens: Any, pages: Any) -> None:
        self.prompt, self.indices = tokens, pages
        self.cursor = self.tree.match(tokens[: self.page_size]).cursor
        self.tree.lock(self.cursor)

    def chunk(self, stop: int) -> None:
        start, size = self.cursor.position, self.page_size
        pages = self.indices[start // size : stop // size]
        self.cursor = self.tree.extend(self.cursor, self.prompt[start:stop], pages).cursor


class Sglang056(Subject):
    """SGLang 0.5.6.post2's RadixCache."""

    def fresh(self) -> None:
        from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey

        self.key = RadixKey
        self.tree = RadixCache.create_simulated(page_size=self.page_size)

    def tokens(self, ids: np.ndarray) -> Any:
        return ids.tolist()

    def pages(self, first: int, tokens: int) -> Any:
        import torch

        return torch.arange(first, first + tokens, dtype=torch.int32)

    def insert(self, tokens: Any, pages: Any) -> None:
        import torch

        self.tree.insert(self.key(tokens, None), pages.to(dtype=torch.int64, copy=True))

    def match(self, tokens: Any) -> int:
        return len(self.tree.match_prefix(self.key(tokens, None)).device_indices)

    def open(self, tokens: Any, pages: Any) -> None:
        self.prompt, self.table = tokens, pages.clone()
        self.protected, self.node = 0, self.tree.root_node
        self.tree.inc_lock_ref(self.node)

    def chunk(self, stop: int) -> None:
        import torch

        key = self.key(self.prompt[:stop], None)
        values = self.table[:stop].to(dtype=torch.int64, copy=True)
        self.tree.insert(key, values, chunked=True)
        found = self.tree.match_prefix(key)
        self.table[self.protected : stop] = found.device_indices[self.protected :]
        self.tree.dec_lock_ref(self.node)
        self.tree.inc_lock_ref(found.last_device_node)
        self.protected, self.node = stop, found.last_device_node


class Sglang0523(Subject):
    """SGLang 0.5.23's UnifiedRadixCache for full attention, on its Rust or its Python core."""

    core = "rust"

    def fresh(self) -> None:
        from sglang.srt.mem_cache import base_prefix_cache as base
        from sglang.srt.mem_cache.cache_init_params import CacheInitParams
        from sglang.srt.mem_cache.radix_cache import RadixKey
        from sglang.srt.mem_cache.unified_cache.components import ComponentType
        from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

        self.key, self.base = RadixKey, base
        params = CacheInitParams(
            disable=False,
            req_to_token_pool=None,
            token_to_kv_pool_allocator=None,
            page_size=self.page_size,
            tree_components=(ComponentType.FULL,),
            tree_core_backend=self.core,
        )
        self.tree = UnifiedRadixCache(params)
        # A release without the Rust extension would quietly fall back to the other core.
        running = type(self.tree.tree_core).__name__
        if ("Rust" in running) is not (self.core == "rust"):
            raise SystemExit(f"asked for SGLang's {self.core} core and got {running}")

    def tokens(self, ids: np.ndarray) -> Any:
        return array("q", ids.astype(np.int64).tobytes())

    def pages(self, first: int, tokens: int) -> Any:
        import torch

        return torch.arange(first, first + tokens, dtype=torch.int32)

    def insert(self, tokens: Any, pages: Any) -> None:
        import torch

        key = self.key(tokens).page_aligned(self.page_size)
        value = pages[: len(key)].to(dtype=torch.int64, copy=True)
        # Nothing is freed for what is there already, as for a request that took those indices from the tree.
        self.tree.insert(self.base.InsertParams(key=key, value=value, prev_prefix_len=len(key)))

    def match(self, tokens: Any) -> int:
        found = self.tree.match_prefix(self.base.MatchPrefixParams(key=self.key(tokens)))
        return len(self.tree.path_device_indices(found.last_device_node))

    def open(self, tokens: Any, pages: Any) -> None:
        self.prompt, self.table = tokens, pages.clone()
        self.protected, self.held = 0, None

    def chunk(self, stop: int) -> None:
        import torch

        key = self.key(self.prompt[:stop]).page_aligned(self.page_size)
        values = self.table[: len(key)].to(dtype=torch.int64, copy=True)
        done = self.protected
        params = self.base.InsertParams(key=key, value=values, prev_prefix_len=done, inserted_len=done)
        node = self.tree.insert(params).last_device_node
        indices = self.tree.path_device_indices(node)
        self.table[done : len(indices)] = indices[done:]
        self.tree.unlock(self.held)
        self.held = self.tree.lock(node)
        self.protected = len(indices)


class Sglang0523Python(Sglang0523):
    core = "python"


SUBJECTS: dict[str, type[Subject]] = {
    "farspan": Farspan,
    "sglang-0.5.23-rust": Sglang0523,
    "sglang-0.5.23-python": Sglang0523Python,
    "sglang-0.5.6.post2": Sglang056,
}


def release(subject: str) -> str:
    """The SGLang release a subject belongs to; empty for farspan."""
    return "-".join(subject.split("-")[1:2])


def make(subject: str, page_size: int, folder: str) -> Subject:
    """A subject, with the unpacked release in `folder` importable and what it lacks stubbed."""
    if folder:
        sys.path[:0] = [folder, str(STUBS)]
        from oracle import HIDDEN
        from stubs import install

        install("sglang", [*HIDDEN, "torchvision", "triton"])
    if "farspan" not in subject:
        import torch

        torch.set_num_threads(1)
    return SUBJECTS[subject](page_size)
