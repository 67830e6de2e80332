"""What a prefix tree answers: where a prefix ends, what it holds, what became of an insertion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from farspan.errors import KVError
from farspan.kv.tree.cache_events import Location
from farspan.kv.tree.tree_node import SecondaryPages, Slot, TreeNode

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RadixError(KVError):
    """The tree was asked for something its state forbids; nothing was changed."""


@dataclass(slots=True, eq=False)
class Cursor:
    """A place in the tree: the end of a prefix. It stays right when nodes split or grow.

    An unlocked cursor ends when what it points at is evicted; using it then raises RadixError.

    Attributes:
        position: Tokens from the root, a multiple of the page size.
        locks: Times it is locked.
    """

    position: int
    locks: int = field(default=0, init=False)
    node: TreeNode = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class PrefixMatch:
    """The longest stored prefix of some tokens.

    Attributes:
        length: Tokens matched on the device, a multiple of the page size.
        cursor: Their end.
        page_arrays: Page ids (int32) of the primary kind, one a page of [0, length), as consecutive pieces.
        host_length: Tokens matched behind them whose pages are in host memory.
        host_cursor: The end of those.
        host_arrays: Their host page ids, as consecutive pieces.
    """

    length: int
    cursor: Cursor
    page_arrays: tuple[NDArray[np.int32], ...]
    host_length: int
    host_cursor: Cursor
    host_arrays: tuple[NDArray[np.int32], ...]
    _secondary: dict[Slot, tuple[SecondaryPages, ...]] = field(repr=False)

    @property
    def pages(self) -> NDArray[np.int32]:
        """Page ids of [0, length) as one array, put together when asked for."""
        return join(self.page_arrays)

    @property
    def host_pages(self) -> NDArray[np.int32]:
        """Host page ids of the tokens behind `length`, as one array."""
        return join(self.host_arrays)

    def secondary(self, kind: int, location: Location = Location.DEVICE) -> tuple[SecondaryPages, ...]:
        """Return what a secondary kind holds of [0, length + host_length), ascending."""
        return self._secondary.get((kind, location), ())


@dataclass(frozen=True, slots=True, eq=False)
class Insertion:
    """What became of inserted tokens.

    Attributes:
        cursor: Their end.
        existing: Leading tokens (of those given) that were on the device already: the caller's pages for these were not
            taken and are still the caller's.
        existing_pages: The tree's pages for them, as consecutive pieces.
        host_pages: Host page ids that the given pages took the place of; the caller's to free.
    """

    cursor: Cursor
    existing: int
    existing_pages: tuple[NDArray[np.int32], ...]
    host_pages: NDArray[np.int32]


class Released(NamedTuple):
    """Pages that left the tree, by (kind, location); arrays of int32 page ids."""

    pages: dict[Slot, NDArray[np.int32]]

    def of(self, kind: int = 0, location: Location = Location.DEVICE) -> NDArray[np.int32]:
        """Return those of one kind at one location."""
        return self.pages.get((kind, location), np.empty(0, dtype=np.int32))


@dataclass(frozen=True, slots=True)
class TreeStatistics:
    """What a tree holds.

    Attributes:
        tokens: Stored tokens.
        nodes: Nodes, roots not counted.
        namespaces: Those that hold something or are in use.
        pages: Pages by (kind, location).
        locked_pages: Those of them that are locked.
        nbytes: Bytes of its arrays.
    """

    tokens: int
    nodes: int
    namespaces: int
    pages: dict[Slot, int]
    locked_pages: dict[Slot, int]
    nbytes: int


def join(arrays: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Return arrays one behind the other; the only one itself, without a copy."""
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32)
