"""Ways to keep a growing KV cache of several layers behind one interface: what benchmarks/kv_structures.py compares.

What differs is memory management. Attention is the built-in engine's over contiguous runs, in all of them but `Paged`,
which has a kernel of its own that follows the page table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from farspan.builtin.attention import attend_runs
from farspan.kv.interface import PageRun
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.choose import open_driver
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool


@dataclass(frozen=True, slots=True)
class Shape:
    """What is kept: [tokens, 2, heads, dim] of a dtype on a device, for each layer, at most `cap` tokens."""

    layers: int
    heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device
    cap: int

    @property
    def row_bytes(self) -> int:
        """Of one token in one layer."""
        return 2 * self.heads * self.dim * self.dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """Of one token in all layers."""
        return self.layers * self.row_bytes

    def empty(self, tokens: int) -> torch.Tensor:
        """Memory for one layer, taken from the device when this returns."""
        buffer = torch.empty((tokens, 2, self.heads, self.dim), dtype=self.dtype, device=self.device)
        if self.device.type == "cpu":
            # Linux gives memory on first touch; a GPU gives it at once. Touched, both are counted alike.
            buffer.view(torch.uint8).view(-1)[::4096] = 0
        return buffer


class Structure(ABC):
    """One way to keep it."""

    name: str
    kernel = "torch"

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.length = 0

    @abstractmethod
    def grow(self, count: int) -> None:
        """Make room for `count` more tokens in every layer."""

    @abstractmethod
    def runs(self, layer: int, tokens: int) -> list[PageRun]:
        """The first `tokens` of a layer as pieces to attend to, in order."""

    def attend(self, query: torch.Tensor, layer: int, tokens: int) -> torch.Tensor:
        """Attention of a query [rows, heads, dim] over the first `tokens` of a layer, unmasked."""
        return attend_runs(query, iter(self.runs(layer, tokens)), self.shape.dim**-0.5)

    @abstractmethod
    def buffers(self) -> list[torch.Tensor]:
        """All memory that is in use, as [tokens, 2, heads, dim] pieces, to put numbers into."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Memory taken now."""

    # The most ever taken at once, where that is more than is taken after a step.
    peak_bytes = 0

    @property
    def table_bytes(self) -> int:
        """Tables on the device."""
        return 0

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""


class FixedPool(Structure):
    """All of the cap is taken at start; one sequence lies in one piece."""

    name = "fixed pool"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._layers = [shape.empty(shape.cap) for _ in range(shape.layers)]

    def grow(self, count: int) -> None:
        self.length += count

    def runs(self, layer: int, tokens: int) -> list[PageRun]:
        part = self._layers[layer][:tokens]
        return [PageRun(part[:, 0], part[:, 1])]

    def buffers(self) -> list[torch.Tensor]:
        return [layer[: self.length] for layer in self._layers]

    @property
    def bytes(self) -> int:
        return self.shape.cap * self.shape.token_bytes

    def close(self) -> None:
        self._layers = []


class CopyOnExpand(FixedPool):
    """A buffer a layer that doubles, a layer at a time, copying what it holds."""

    name = "copy on expand"

    def __init__(self, shape: Shape) -> None:
        Structure.__init__(self, shape)
        self._layers = [shape.empty(8192) for _ in range(shape.layers)]

    def grow(self, count: int) -> None:
        needed, size = self.length + count, len(self._layers[0])
        if needed > size:
            while size < needed:
                size *= 2
            for number, layer in enumerate(self._layers):
                larger = self.shape.empty(size)
                larger[: self.length] = layer[: self.length]
                self.peak_bytes = max(self.peak_bytes, self.bytes + size * self.shape.row_bytes)
                self._layers[number] = larger
                del layer
        self.length = needed

    @property
    def bytes(self) -> int:
        return sum(len(layer) for layer in self._layers) * self.shape.row_bytes


class Blocks(Structure):
    """Separate buffers of 65,536 tokens, each attended to on its own."""

    name = "blocks of 64k tokens"
    size = 65536

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._blocks: list[list[torch.Tensor]] = []

    def grow(self, count: int) -> None:
        self.length += count
        while len(self._blocks) * self.size < self.length:
            self._blocks.append([self.shape.empty(self.size) for _ in range(self.shape.layers)])

    def runs(self, layer: int, tokens: int) -> list[PageRun]:
        found = []
        for number in range(-(-tokens // self.size)):
            part = self._blocks[number][layer][: tokens - number * self.size]
            found.append(PageRun(part[:, 0], part[:, 1]))
        return found

    def buffers(self) -> list[torch.Tensor]:
        return [buffer for block in self._blocks for buffer in block]

    @property
    def bytes(self) -> int:
        return len(self._blocks) * self.size * self.shape.token_bytes

    def close(self) -> None:
        self._blocks = []


class Paged(Structure):
    """A fixed pool of pages in random order, as it is after some time of service; a kernel follows the page table.

    Without Triton, attention is torch's once for each page.
    """

    page = 16

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._pools = [shape.empty(shape.cap) for _ in range(shape.layers)]
        order = np.random.default_rng(1).permutation(shape.cap // self.page).astype(np.int32)
        self._free = order
        self._table = torch.empty(len(order), dtype=torch.int32, device=shape.device)
        self._held = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"pages of {self.page}"

    @property
    def kernel(self) -> str:  # type: ignore[override]
        return "triton" if self.shape.device.type == "cuda" else "torch, once a page"

    def grow(self, count: int) -> None:
        self.length += count
        held = -(-self.length // self.page)
        self._table[self._held : held] = torch.from_numpy(self._free[self._held : held])
        self._held = held

    def runs(self, layer: int, tokens: int) -> list[PageRun]:
        found = []
        for number, page in enumerate(self._free[: -(-tokens // self.page)].tolist()):
            count = min(self.page, tokens - number * self.page)
            part = self._pools[layer][page * self.page : page * self.page + count]
            found.append(PageRun(part[:, 0], part[:, 1]))
        return found

    def attend(self, query: torch.Tensor, layer: int, tokens: int) -> torch.Tensor:
        if self.shape.device.type != "cuda":
            return super().attend(query, layer, tokens)
        from kv_paged import attend_pages

        return attend_pages(query, self._pools[layer], tokens, self._table, self.page, self.shape.dim**-0.5)

    def buffers(self) -> list[torch.Tensor]:
        return self._pools

    @property
    def bytes(self) -> int:
        return self.shape.cap * self.shape.token_bytes

    @property
    def table_bytes(self) -> int:
        return self._table.nbytes

    def close(self) -> None:
        self._pools = []


class PagedByOne(Paged):
    """Pages of one token, SGLang's default."""

    page = 1


class Gathered(Paged):
    """The same pages behind an indirection table: copied together before each attention."""

    kernel = "torch"

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"pages of {self.page}, gathered"

    def runs(self, layer: int, tokens: int) -> list[PageRun]:
        shape = self.shape
        pool = self._pools[layer].view(-1, self.page, 2, shape.heads, shape.dim)
        part = pool.index_select(0, self._table[: -(-tokens // self.page)])
        part = part.view(-1, 2, shape.heads, shape.dim)[:tokens]
        return [PageRun(part[:, 0], part[:, 1])]

    def attend(self, query: torch.Tensor, layer: int, tokens: int) -> torch.Tensor:
        return Structure.attend(self, query, layer, tokens)


class FixedTriton(FixedPool):
    """The fixed pool under the kernel that `Paged` uses, without a page table: what the table itself costs."""

    name = "fixed pool, same kernel"
    kernel = "triton"

    def attend(self, query: torch.Tensor, layer: int, tokens: int) -> torch.Tensor:
        from kv_paged import attend_pages

        return attend_pages(query, self._layers[layer], tokens, None, 1, self.shape.dim**-0.5)


class Segments(Structure):
    """Addresses reserved for the cap, physical segments mapped as it grows: farspan.kv."""

    name = "segments"
    page = 16
    segment_bytes = 128 * 2**20

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._driver = open_driver(shape.device)
        size = self.segment_bytes if shape.device.type == "cuda" else self.segment_bytes // 16
        cap = shape.layers * -(-shape.cap * shape.row_bytes // size) * size
        self._segments = SegmentPool(self._driver, size, Cap(cap))
        pages = -(-shape.cap // self.page)
        self._pages = PagePool(self._segments, [shape.row_bytes] * shape.layers, self.page, pages)
        self._layers = [
            self._pages.layer(number).view(shape.dtype).view(-1, 2, shape.heads, shape.dim)
            for number in range(shape.layers)
        ]
        self._held = 0

    def grow(self, count: int) -> None:
        self.length += count
        missing = -(-self.length // self.page) - self._held
        if missing > 0:
            pages = self._pages.alloc(missing, self._held - 1 if self._held else None)
            assert pages is not None, "the cap is large enough"
            assert int(pages[0]) == self._held, "one sequence lies in one piece"
            assert int(pages[-1]) == self._held + missing - 1, "one sequence lies in one piece"
            self._held += missing

    def runs(self, layer: int, tokens: int) -> list[PageRun]:
        part = self._layers[layer][:tokens]
        return [PageRun(part[:, 0], part[:, 1])]

    def buffers(self) -> list[torch.Tensor]:
        return [layer[: self.length] for layer in self._layers]

    @property
    def bytes(self) -> int:
        return self._driver.physical_bytes()

    def close(self) -> None:
        self._pages.free(np.arange(self._held, dtype=np.int32))
        self._layers = []
        self._pages.close()
        self._segments.close()
        self._driver.close()


ON_BOTH: tuple[type[Structure], ...] = (
    FixedPool, CopyOnExpand, Gathered, Paged, PagedByOne, Blocks, Segments,
)  # fmt: skip
ON_CUDA: tuple[type[Structure], ...] = (FixedTriton,)
