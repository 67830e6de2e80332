"""Arrays that grow in place and split without being copied: what a radix node keeps for each of its pages.

An array covers pages [first, end) of a sequence, counted from the sequence's start, as blocks whose borders lie at
multiples of the block size. So a page's block is found by division, a split copies the one block it goes through and
hands the others over, and every block belongs to one array: dropping an array gives its memory back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from farspan.kv.tree.token_ids import common_prefix

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Values a block holds: 256 KiB of int32. Larger ones make splits dearer, smaller ones matches.
BLOCK_VALUES = 65536
# An array that grows keeps room for an eighth of its length more, so growing page by page is O(1) a page.
_SPARE_SHARE = 8
_SPARE_PAGES = 8


def block_pages(page_size: int, values: int = BLOCK_VALUES) -> int:
    """Return how many pages a block holds: the same for every array of a tree, so that borders coincide."""
    return max(1, values // page_size)


class GrowingArray:
    """`width` values for each page of [first, end).

    Args:
        first: The first page, counted from the start of the sequence.
        width: Values a page.
        block: Pages a block, see `block_pages`.
        dtype: Of the values.
    """

    __slots__ = ("_block", "_blocks", "_dtype", "_width", "end", "first")

    def __init__(self, first: int, width: int, block: int, dtype: type[np.generic] = np.int32) -> None:
        self.first = first
        self.end = first
        self._width = width
        self._block = block
        self._dtype = dtype
        self._blocks: list[NDArray[Any]] = []

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks, spare room included."""
        return sum(block.nbytes for block in self._blocks)

    def append(self, values: NDArray[Any]) -> None:
        """Copy `values` (a multiple of `width` of them) behind the last page."""
        count, width = len(values) // self._width, self._width
        spare = len(self) // _SPARE_SHARE + _SPARE_PAGES if self._blocks else 0
        done = 0
        while done < count:
            index = self.end // self._block - self.first // self._block
            start = max(self.first, self.end // self._block * self._block)
            border = (self.end // self._block + 1) * self._block
            take = min(count - done, border - self.end)
            used, need = self.end - start, self.end - start + take
            if index == len(self._blocks):
                room = min(border - start, need + spare)
                self._blocks.append(np.empty(room * width, dtype=self._dtype))
            elif len(self._blocks[index]) < need * width:
                room = min(border - start, need + spare)
                larger = np.empty(room * width, dtype=self._dtype)
                larger[: used * width] = self._blocks[index][: used * width]
                self._blocks[index] = larger
            block = self._blocks[index]
            block[used * width : need * width] = values[done * width : (done + take) * width]
            self.end += take
            done += take

    def views(self, start: int, stop: int) -> list[NDArray[Any]]:
        """Return the values of pages [start, stop) in order, as views that later growth does not change."""
        width, size, base = self._width, self._block, self.first // self._block
        if start >= stop:
            return []
        if len(self._blocks) == 1:
            return [self._blocks[0][(start - self.first) * width : (stop - self.first) * width]]
        found = []
        while start < stop:
            index = start // size
            low = max(self.first, index * size)
            end = min(stop, (index + 1) * size)
            found.append(self._blocks[index - base][(start - low) * width : (end - low) * width])
            start = end
        return found

    def gather(self, start: int, stop: int) -> NDArray[Any]:
        """Return the values of pages [start, stop) as one array of their own."""
        pieces = self.views(start, stop)
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=self._dtype)

    def common(self, start: int, values: NDArray[Any]) -> int:
        """Return how many whole pages from `start` on equal the leading pages of `values`."""
        done = 0
        stop = min(self.end, start + len(values) // self._width)
        for view in self.views(start, stop):
            same = common_prefix(view, values[done:])
            done += same
            if same < len(view):
                break
        return done // self._width

    def cut(self, at: int) -> GrowingArray:
        """Split at page `at`, inside the array: return the head; this one keeps the tail."""
        head = GrowingArray(self.first, self._width, self._block, self._dtype)
        whole = at // self._block - self.first // self._block
        border = max(self.first, at // self._block * self._block)
        inside, width = at - border, self._width
        head._blocks = self._blocks[:whole]
        if inside:
            through = self._blocks[whole]
            used = min(self.end, (at // self._block + 1) * self._block) - border
            head._blocks.append(through[: inside * width].copy())
            self._blocks[whole] = through[inside * width : used * width].copy()
        head.end = at
        self._blocks = self._blocks[whole:]
        self.first = at
        return head

    def check_integrity(self) -> None:
        """Raise AssertionError when the blocks do not cover the pages."""
        assert self.first <= self.end, "an array ends before it starts"
        views = self.views(self.first, self.end)
        assert sum(len(view) for view in views) == len(self) * self._width, "blocks do not cover the pages"
        assert len(views) == len(self._blocks), "an array keeps blocks it does not use"
        for block in self._blocks:
            assert block.base is None, "a block is a view of something larger"
