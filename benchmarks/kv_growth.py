"""Ways to keep a growing KV cache, side by side in one process: memory, growth pauses, waste, attention speed.

    python benchmarks/kv_growth.py [--device cpu|cuda] [--tokens 1M,4M] [--heads 8] [--dtype bfloat16] [--json]

One layer, one sequence, grown by `--step` tokens at a time to each length, then attended to by one query (decode) and
by a block of queries (prefill). What is compared is memory management: the attention kernel is torch's fused one for
all; "pages, one call each" and "pages, gathered" are what it can do with scattered pages.

- fixed pool: all of the cap is taken at start, as vLLM and SGLang do
- copy on expand: a contiguous buffer that doubles, copying what it holds
- pages, gathered: scattered pages of 16 tokens, copied together before each attention (an indirection table)
- pages, one call each: pages of 256 tokens, attended to one by one, partial results joined by log-sum-exp
- blocks: separate buffers of 65,536 tokens, attended to one by one
- segments: virtual addresses reserved for the cap, physical segments mapped as it grows (farspan.kv)
"""

from __future__ import annotations

import argparse
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from farspan.builtin.attention import attend_runs
from farspan.kv.interface import Run
from farspan.kv.kvcache import open_driver
from farspan.kv.pages import PagePool
from farspan.kv.segments import Cap, SegmentPool
from farspan.sizes import format_bytes, format_tokens, parse_token_list


@dataclass(frozen=True, slots=True)
class Shape:
    """What is kept: [tokens, 2, heads, dim] of a dtype on a device, at most `cap` tokens."""

    heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device
    cap: int

    @property
    def row_bytes(self) -> int:
        return 2 * self.heads * self.dim * self.dtype.itemsize

    def empty(self, tokens: int) -> torch.Tensor:
        buffer = torch.empty((tokens, 2, self.heads, self.dim), dtype=self.dtype, device=self.device)
        if self.device.type == "cpu":
            # Linux gives memory on first touch; a GPU gives it at once. Touched, both are counted alike.
            buffer.view(torch.uint8).view(-1)[::4096] = 0
        return buffer


class Structure(ABC):
    """One way to keep it."""

    name: str

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.length = 0

    @abstractmethod
    def grow(self, count: int) -> None:
        """Make room for `count` more tokens."""

    @abstractmethod
    def runs(self) -> list[Run]:
        """All that is kept, as pieces to attend to, in order."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Memory taken now."""

    peak_bytes = 0

    def close(self) -> None:  # noqa: B027 most have nothing but tensors
        """Give everything back."""


class FixedPool(Structure):
    name = "fixed pool"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._buffer = shape.empty(shape.cap)

    def grow(self, count: int) -> None:
        self.length += count

    def runs(self) -> list[Run]:
        part = self._buffer[: self.length]
        return [Run(part[:, 0], part[:, 1])]

    @property
    def bytes(self) -> int:
        return self.shape.cap * self.shape.row_bytes


class CopyOnExpand(Structure):
    name = "copy on expand"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._buffer = shape.empty(1024)

    def grow(self, count: int) -> None:
        needed = self.length + count
        if needed > len(self._buffer):
            size = len(self._buffer)
            while size < needed:
                size *= 2
            larger = self.shape.empty(size)
            larger[: self.length] = self._buffer[: self.length]
            self.peak_bytes = max(self.peak_bytes, (size + len(self._buffer)) * self.shape.row_bytes)
            self._buffer = larger
        self.length = needed

    def runs(self) -> list[Run]:
        part = self._buffer[: self.length]
        return [Run(part[:, 0], part[:, 1])]

    @property
    def bytes(self) -> int:
        return len(self._buffer) * self.shape.row_bytes


class Pages(Structure):
    """A fixed pool of pages handed out in random order: what a pool looks like after some time of service."""

    page = 16

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._pool = shape.empty(shape.cap)
        self._free = np.random.default_rng(1).permutation(shape.cap // self.page)
        self._held = 0

    def grow(self, count: int) -> None:
        self.length += count
        self._held = -(-self.length // self.page)

    @property
    def bytes(self) -> int:
        return self.shape.cap * self.shape.row_bytes


class GatheredPages(Pages):
    name = "pages, gathered"

    def runs(self) -> list[Run]:
        ids = torch.from_numpy(self._free[: self._held]).to(self.shape.device)
        paged = self._pool.view(-1, self.page, 2, self.shape.heads, self.shape.dim)
        part = paged.index_select(0, ids).view(-1, 2, self.shape.heads, self.shape.dim)[: self.length]
        return [Run(part[:, 0], part[:, 1])]


class SinglePages(Pages):
    name = "pages, one call each"
    page = 256

    def runs(self) -> list[Run]:
        found = []
        for number, page in enumerate(self._free[: self._held].tolist()):
            count = min(self.page, self.length - number * self.page)
            part = self._pool[page * self.page : page * self.page + count]
            found.append(Run(part[:, 0], part[:, 1]))
        return found


class Blocks(Structure):
    name = "blocks"
    size = 65536

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._blocks: list[torch.Tensor] = []

    def grow(self, count: int) -> None:
        self.length += count
        while len(self._blocks) * self.size < self.length:
            self._blocks.append(self.shape.empty(self.size))

    def runs(self) -> list[Run]:
        found = []
        for number, block in enumerate(self._blocks):
            part = block[: self.length - number * self.size]
            found.append(Run(part[:, 0], part[:, 1]))
        return found

    @property
    def bytes(self) -> int:
        return len(self._blocks) * self.size * self.shape.row_bytes


class Segments(Structure):
    name = "segments"
    page = 16
    segment_bytes = 128 * 2**20

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._driver = open_driver(shape.device)
        cap = -(-shape.cap * shape.row_bytes // self.segment_bytes) * self.segment_bytes
        self._segments = SegmentPool(self._driver, self.segment_bytes, Cap(cap))
        self._pages = PagePool(
            self._segments, [shape.row_bytes], self.page, cap // (shape.row_bytes * self.page)
        )
        self._buffer: torch.Tensor | None = (
            self._pages.layer(0).view(shape.dtype).view(-1, 2, shape.heads, shape.dim)
        )
        self._held = np.empty(0, np.int32)

    def grow(self, count: int) -> None:
        self.length += count
        missing = -(-self.length // self.page) - len(self._held)
        if missing > 0:
            after = int(self._held[-1]) if len(self._held) else None
            pages = self._pages.alloc(missing, after)
            assert pages is not None, "the cap is large enough"
            self._held = np.concatenate((self._held, pages))

    def runs(self) -> list[Run]:
        assert self._buffer is not None
        assert np.array_equal(self._held, np.arange(len(self._held))), "one sequence lies in one piece"
        part = self._buffer[: self.length]
        return [Run(part[:, 0], part[:, 1])]

    @property
    def bytes(self) -> int:
        return self._driver.physical_bytes()

    def close(self) -> None:
        self._pages.free(self._held)
        self._buffer = None
        self._pages.close()
        self._segments.close()
        self._driver.close()


STRUCTURES: tuple[type[Structure], ...] = (
    FixedPool,
    CopyOnExpand,
    GatheredPages,
    SinglePages,
    Blocks,
    Segments,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One structure at one length. Times in milliseconds."""

    structure: str
    tokens: int
    start_bytes: int
    start_ms: float
    bytes: int
    peak_bytes: int
    waste: float
    growth_max_ms: float
    growth_total_ms: float
    decode_ms: float
    prefill_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=parse_token_list, default=(250_000,))
    parser.add_argument("--heads", type=int, default=2, help="KV heads and query heads")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--step", type=int, default=8192, help="tokens a growth")
    parser.add_argument("--queries", type=int, default=512, help="queries of the prefill block")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = []
    for tokens in arguments.tokens:
        # Whole pages of every structure; a quarter more than is used, as a pool sized for the longest request is.
        cap = -(-tokens * 5 // 4 // 65536) * 65536
        shape = Shape(arguments.heads, arguments.dim, getattr(torch, arguments.dtype), device, cap)
        for kind in STRUCTURES:
            row = measure(kind, shape, tokens, arguments.step, arguments.queries, arguments.repeats)
            rows.append(row)
            if not arguments.json:
                print(f"{row.structure:22} {format_tokens(tokens)} done", flush=True)
    result = {
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{torch.get_num_threads()} cores",
        "torch": torch.__version__,
        "heads": arguments.heads,
        "dim": arguments.dim,
        "dtype": arguments.dtype,
        "step": arguments.step,
        "queries": arguments.queries,
        "rows": [asdict(row) for row in rows],
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1))
    print(json.dumps(result) if arguments.json else table(rows, result))


def measure(kind: type[Structure], shape: Shape, tokens: int, step: int, queries: int, repeats: int) -> Row:
    """Grow one structure to a length and attend to it."""
    begun = now(shape.device)
    structure = kind(shape)
    start_ms = 1000 * (now(shape.device) - begun)
    start_bytes = structure.bytes
    pauses = []
    while structure.length < tokens:
        begun = now(shape.device)
        structure.grow(min(step, tokens - structure.length))
        pauses.append(1000 * (now(shape.device) - begun))
    fill(structure)
    generator = torch.Generator(shape.device).manual_seed(0)

    def attention(count: int) -> Callable[[], torch.Tensor]:
        query = torch.randn(
            (count, shape.heads, shape.dim), dtype=shape.dtype, device=shape.device, generator=generator
        )
        return lambda: attend_runs(query, iter(structure.runs()), shape.dim**-0.5)

    decode_ms = timed(attention(1), shape.device, repeats)
    prefill_ms = timed(attention(queries), shape.device, repeats)
    held = structure.bytes
    structure.close()
    needed = tokens * shape.row_bytes
    return Row(
        structure=kind.name,
        tokens=tokens,
        start_bytes=start_bytes,
        start_ms=start_ms,
        bytes=held,
        peak_bytes=max(held, structure.peak_bytes),
        waste=held / needed - 1,
        growth_max_ms=max(pauses),
        growth_total_ms=sum(pauses),
        decode_ms=decode_ms,
        prefill_ms=prefill_ms,
    )


def fill(structure: Structure) -> None:
    """Put numbers into everything kept, so that no attention is spared by zeros or untouched memory."""
    shape = structure.shape
    block = torch.randn((65536, shape.heads, shape.dim), device=shape.device).to(shape.dtype)
    if isinstance(structure, Pages):
        structure._pool.view(-1, 65536, 2, shape.heads, shape.dim)[:] = block[:, None]
        return
    for run in structure.runs():
        for start in range(0, len(run.key), 65536):
            count = min(65536, len(run.key) - start)
            run.key[start : start + count] = block[:count]
            run.value[start : start + count] = block[:count]


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(call: Callable[[], torch.Tensor], device: torch.device, repeats: int) -> float:
    """Median milliseconds of a call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        begun = now(device)
        call()
        times.append(1000 * (now(device) - begun))
    return median(times)


def table(rows: list[Row], result: dict[str, object]) -> str:
    lines = [
        f"{result['device']}, torch {result['torch']}, one layer, {result['heads']} heads of {result['dim']}, "
        f"{result['dtype']}, growing by {result['step']} tokens; prefill is {result['queries']} queries",
        "",
        "| structure | tokens | at start | at start, ms | held | peak | waste | longest pause, ms | all growth, ms "
        "| decode, ms | prefill, ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.structure} | {format_tokens(row.tokens)} | {format_bytes(row.start_bytes)} | {row.start_ms:.1f} "
        f"| {format_bytes(row.bytes)} | {format_bytes(row.peak_bytes)} | {row.waste:.0%} | {row.growth_max_ms:.2f} "
        f"| {row.growth_total_ms:.1f} | {row.decode_ms:.2f} | {row.prefill_ms:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
