"""The host tier: pages evicted from the device are kept in host memory and come back on a hit.

Copies are ordered by the device itself: a page may be handed out again as soon as `store` returns and read as soon as
`load` returns, while the CPU waits for neither. On a GPU the host memory is pinned and the copies run on a stream of
their own, beside the computation that does not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from farspan.kv.memory.drivers.driver import NoRoomError

if TYPE_CHECKING:
    import torch

# Host memory is taken in blocks: pinning is slow, so it is done rarely, and only as far as the tier is used.
_BLOCK_BYTES = 64 * 1024**2


@dataclass(slots=True)
class _Shelf:
    """Host pages of one kind of layers; page `i` is row `i % per_block` of block `i // per_block`.

    A block has a tensor a layer, uint8 [per_block, bytes of a page in the layer], so that copies are of whole rows.
    """

    layer_bytes: tuple[int, ...]
    per_block: int
    blocks: list[list[torch.Tensor]] = field(default_factory=list)
    free: list[int] = field(default_factory=list)

    @property
    def page_bytes(self) -> int:
        return sum(self.layer_bytes)

    @property
    def used(self) -> int:
        return len(self.blocks) * self.per_block - len(self.free)


class HostTier:
    """Host memory for evicted pages.

    Args:
        layer_bytes: For each kind, the bytes of a page in each of its layers.
        budget_bytes: The most host memory it takes; 0 keeps nothing.
        device: Where the pages come from.
    """

    def __init__(self, layer_bytes: Sequence[Sequence[int]], budget_bytes: int, device: torch.device) -> None:
        import torch

        self._budget = budget_bytes
        self._device = device
        block_bytes = min(_BLOCK_BYTES, budget_bytes // 8)
        self._shelves = [_Shelf(tuple(sizes), max(1, block_bytes // sum(sizes))) for sizes in layer_bytes]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def budget_bytes(self) -> int:
        """The most host memory the tier takes."""
        return self._budget

    @property
    def allocated_bytes(self) -> int:
        """Host memory taken so far; it is kept for the next pages."""
        return sum(len(shelf.blocks) * shelf.per_block * shelf.page_bytes for shelf in self._shelves)

    @property
    def used_bytes(self) -> int:
        """Host memory that holds pages now."""
        return sum(shelf.used * shelf.page_bytes for shelf in self._shelves)

    def most(self, kind: int) -> int:
        """Return how many pages of a kind could be kept if there were no other pages of it."""
        return self.room(kind) + self._shelves[kind].used

    def room(self, kind: int) -> int:
        """Return how many more pages of a kind could be kept."""
        shelf = self._shelves[kind]
        blocks = max(0, self._budget - self.allocated_bytes) // (shelf.per_block * shelf.page_bytes)
        return len(shelf.free) + blocks * shelf.per_block

    def store(
        self, kind: int, layers: Sequence[torch.Tensor], pages: NDArray[np.int32]
    ) -> NDArray[np.int32] | None:
        """Copy pages of the device to the host and return their host pages; None when there is no room.

        No room is also what the machine refuses: host memory within the budget, or device memory for the copy.

        Args:
            kind: Which kind of layers.
            layers: Each layer of the kind as uint8 [device pages, bytes of a page in the layer].
            pages: Device pages.
        """
        import torch

        if len(pages) > self.room(kind):
            return None
        shelf = self._shelves[kind]
        try:
            while len(shelf.free) < len(pages):
                self._add_block(shelf)
        except (
            RuntimeError
        ):  # of torch: neither ordinary nor pinned memory that runs out has a class of its own
            return None
        cut = len(shelf.free) - len(pages)
        host = np.array(shelf.free[cut:], np.int32)
        del shelf.free[cut:]
        try:
            self._save(shelf, layers, pages, host)
        except torch.OutOfMemoryError:
            self.free(kind, host)
            return None
        except BaseException:
            self.free(kind, host)
            raise
        return host

    def load(
        self,
        kind: int,
        layers: Sequence[torch.Tensor],
        host: NDArray[np.int32],
        pages: NDArray[np.int32],
    ) -> None:
        """Copy host pages into pages of the device; the host pages stay until they are freed.

        Raises:
            NoRoomError: The device has no memory for the copy.
        """
        import torch

        try:
            self._fill(self._shelves[kind], layers, host, pages)
        except torch.OutOfMemoryError as error:
            raise NoRoomError("no device memory to copy pages back from the host") from error

    def _fill(
        self,
        shelf: _Shelf,
        layers: Sequence[torch.Tensor],
        host: NDArray[np.int32],
        pages: NDArray[np.int32],
    ) -> None:
        import torch

        with self._copying():
            for block, rows, chosen in _by_block(shelf, host):
                index = torch.from_numpy(pages[chosen].astype(np.int64)).to(self._device)
                for kept, layer in zip(block, layers, strict=True):
                    staged = torch.empty((len(rows), kept.shape[1]), dtype=torch.uint8, device=self._device)
                    for start, low, high in _consecutive(rows):
                        staged[start : start + high - low].copy_(kept[low:high], non_blocking=True)
                    layer.index_copy_(0, index, staged)

    def _save(
        self,
        shelf: _Shelf,
        layers: Sequence[torch.Tensor],
        pages: NDArray[np.int32],
        host: NDArray[np.int32],
    ) -> None:
        import torch

        with self._copying():
            for block, rows, chosen in _by_block(shelf, host):
                index = torch.from_numpy(pages[chosen].astype(np.int64)).to(self._device)
                for kept, layer in zip(block, layers, strict=True):
                    gathered = layer.index_select(0, index)
                    for start, low, high in _consecutive(rows):
                        kept[low:high].copy_(gathered[start : start + high - low], non_blocking=True)

    def free(self, kind: int, host: NDArray[np.int32]) -> None:
        """Give host pages back."""
        self._shelves[kind].free.extend(np.sort(host)[::-1].tolist())

    def check_integrity(self, held: Sequence[NDArray[np.int32]]) -> None:
        """Raise AssertionError unless exactly the host pages `held`, by kind, are in use."""
        for shelf, pages in zip(self._shelves, held, strict=True):
            everything = np.sort(np.concatenate((np.array(shelf.free, np.int32), pages)))
            assert np.array_equal(everything, np.arange(len(shelf.blocks) * shelf.per_block)), (
                "host pages are lost or held twice"
            )

    def _add_block(self, shelf: _Shelf) -> None:
        import torch

        first = len(shelf.blocks) * shelf.per_block
        pinned = self._stream is not None
        shelf.blocks.append(
            [
                torch.empty((shelf.per_block, size), dtype=torch.uint8, pin_memory=pinned)
                for size in shelf.layer_bytes
            ]
        )
        shelf.free[:0] = range(first + shelf.per_block - 1, first - 1, -1)

    @contextmanager
    def _copying(self) -> Iterator[None]:
        """Order the copies after what is queued now, and what is queued later after the copies."""
        import torch

        if self._stream is None:
            yield
            return
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)


def _by_block(
    shelf: _Shelf, host: NDArray[np.int32]
) -> Iterator[tuple[list[torch.Tensor], NDArray[np.int32], NDArray[np.int64]]]:
    """Yield (block, rows in it, which of `host` they are), rows ascending."""
    order = np.argsort(host, kind="stable")
    borders = np.flatnonzero(np.diff(host[order] // shelf.per_block)) + 1
    for chosen in np.split(order, borders) if len(order) else ():
        first = int(host[chosen[0]])
        yield shelf.blocks[first // shelf.per_block], host[chosen] % shelf.per_block, chosen


def _consecutive(rows: NDArray[np.int32]) -> Iterator[tuple[int, int, int]]:
    """Yield (index of the first, first row, row after the last) of each run of consecutive rows."""
    starts = np.concatenate(([0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)]))
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        yield start, int(rows[start]), int(rows[stop - 1]) + 1
