"""Layers that keep the same positions, and the pages they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from farspan.kv.formats import KVFormat, LayerStore
from farspan.kv.memory.page_guard import PageGuard
from farspan.kv.memory.pages import PagePool
from farspan.kv.retention import LayerRetention

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, eq=False)
class LayerKind:
    """Layers of one retention, with a page pool of their own.

    Attributes:
        retention: Which positions these layers keep.
        layers: Which layers of the model they are, ascending.
        pool: Their pages: a page is in all of them.
        stores: Keys and values of each.
        page_rows: Each layer as uint8 [max_pages, bytes of a page in one layer], for copying whole pages.
        guard: Poisons and checks the pages in the debug mode, else None.
    """

    retention: LayerRetention
    layers: tuple[int, ...]
    pool: PagePool
    stores: list[LayerStore] = field(default_factory=list)
    page_rows: list[torch.Tensor] = field(default_factory=list)
    guard: PageGuard | None = None

    @property
    def page_bytes(self) -> int:
        """Bytes of a page in all layers of the kind."""
        return sum(int(rows.shape[1]) for rows in self.page_rows)

    @property
    def free_pages(self) -> int:
        """Pages that can be had without growing."""
        return self.pool.free_pages

    def close(self) -> None:
        """Give the memory back; nothing may look at it any more."""
        self.stores.clear()
        self.page_rows.clear()
        self.pool.close()

    def open_stores(self, form: KVFormat) -> None:
        """Look at the pool's memory as keys and values."""
        rows = [self.pool.layer(index) for index in range(len(self.layers))]
        self.stores = [form.store(layer) for layer in rows]
        self.page_rows = [layer.view(self.pool.max_pages, -1) for layer in rows]

    def watch_pages(self) -> None:
        """Poison pages that nobody holds, and check what is read: the debug mode."""
        self.guard = PageGuard(self.page_rows, self.pool.page_tokens)
        self.pool.poison_with(self.guard.poison)


def group_layers(layers: Sequence[LayerRetention]) -> list[tuple[LayerRetention, tuple[int, ...]]]:
    """Return (retention, layer numbers) of each kind, full attention first."""
    kinds: dict[LayerRetention, list[int]] = {}
    for number, retention in enumerate(layers):
        kinds.setdefault(retention, []).append(number)
    ordered = sorted(kinds.items(), key=lambda kind: (not kind[0].full, kind[1][0]))
    return [(retention, tuple(numbers)) for retention, numbers in ordered]
