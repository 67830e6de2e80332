"""The debug mode of pages: poison in those that nobody holds, found when it is read.

A page that was never written, or was let go and handed out again, looks like any other: attention reads it and answers
wrongly without an error. With a guard its rows are full of a byte that keys and values are not (in every float format
it is NaN), from when it is let go until somebody writes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from farspan.errors import DefectError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

DEBUG_VARIABLE = "FARSPAN_KV_DEBUG"
"""The environment variable that turns the debug mode on when it is set to anything but 0."""

_POISON = 0xFF


def debug_wanted() -> bool:
    """Return whether the environment asks for the debug mode."""
    return os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


class PageGuard:
    """Poisons and checks the pages of one kind of layers.

    Args:
        page_rows: Each layer as uint8 [max_pages, bytes of a page in the layer].
        page_tokens: Positions a page.
    """

    def __init__(self, page_rows: Sequence[torch.Tensor], page_tokens: int) -> None:
        self._page_rows = page_rows
        self._page_tokens = page_tokens

    def poison(self, pages: NDArray[np.int32]) -> None:
        """Fill pages that nobody holds, or that were just handed out."""
        import torch

        if len(pages):
            index = torch.from_numpy(pages.astype(np.int64)).to(self._page_rows[0].device)
            for rows in self._page_rows:
                rows.index_fill_(0, index, _POISON)

    def check(self, layer: int, position: int, slot: int, count: int) -> None:
        """Check `count` consecutive slots of the kind's layer number `layer`, the first of which holds `position`.

        Raises:
            DefectError: Nobody has written one of them since its page was handed out.
        """
        pages = self._page_rows[layer]
        rows = pages.view(pages.shape[0] * self._page_tokens, -1)[slot : slot + count]
        unwritten = (rows == _POISON).all(dim=1)
        if bool(unwritten.any()):
            first = int(unwritten.int().argmax())
            raise DefectError(
                f"position {position + first} of the KV cache is read in slot {slot + first}, which nobody has written "
                "since it was handed out"
            )
