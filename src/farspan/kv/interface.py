"""What an engine needs of a KV cache, and nothing about how one keeps it.

An engine opens a sequence for a request, which either gets its room or waits; appends the positions of each step;
writes keys and values layer by layer; reads them back as runs, contiguous pieces in order of position; and closes the
sequence. Whether a run is a page, a segment or a whole buffer, and whether an opened sequence finds its first tokens
already there, is the cache's own affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from farspan.errors import FarspanError
from farspan.kv.retention import LayerRetention

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


__all__ = [
    "KVCache",
    "KVCacheError",
    "KVStatistics",
    "LayerRetention",
    "Run",
    "SequenceKV",
    "retentions",
]


class KVCacheError(FarspanError):
    """A request can never fit the cache it was opened on."""


class Run(NamedTuple):
    """Keys and values of consecutive positions, each [tokens, num_kv_heads, head_dim]; views, not copies."""

    key: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True, slots=True)
class KVStatistics:
    """What a cache holds now.

    Attributes:
        capacity_bytes: The most it may take.
        allocated_bytes: What it has taken from the device.
        reserved_bytes: What open sequences may still grow to, at most `capacity_bytes`.
        sequences: Open sequences.
        tokens: Positions appended to open sequences, reused ones included.
    """

    capacity_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    sequences: int
    tokens: int


class SequenceKV(ABC):
    """The keys and values of one open sequence. Not safe to share between threads."""

    @property
    @abstractmethod
    def cached_tokens(self) -> int:
        """Leading tokens that were already in the cache when the sequence was opened."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Positions appended so far, reused ones included."""

    @abstractmethod
    def append(self, count: int) -> None:
        """Make room for `count` more positions in every layer; nothing is changed when this raises.

        Raises:
            KVCacheError: The sequence would outgrow what it was opened for.
        """

    @abstractmethod
    def write(self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store keys and values, each [tokens, num_kv_heads, head_dim], of appended positions from `start` on."""

    @abstractmethod
    def runs(self, layer: int, start: int, stop: int) -> list[Run]:
        """Return the keys and values of positions [start, stop) in order; they must have been written and kept."""

    @abstractmethod
    def retain(self, position: int) -> None:
        """Let go of what no layer needs any more for tokens at `position` and after."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; closing twice does nothing."""


class KVCache(ABC):
    """Room for the keys and values of many sequences."""

    @abstractmethod
    def open(self, token_ids: NDArray[np.int32], max_length: int) -> SequenceKV | None:
        """Open a sequence that starts with `token_ids` and grows to at most `max_length` positions.

        Returns None when there is no room now and there may be later.

        Raises:
            KVCacheError: It could not fit even an empty cache.
        """

    @abstractmethod
    def check_fits(self, max_length: int) -> int:
        """Return the bytes that a sequence of at most `max_length` positions needs.

        Raises:
            KVCacheError: It could not fit even an empty cache.
        """

    @abstractmethod
    def statistics(self) -> KVStatistics:
        """Return what the cache holds now."""

    @abstractmethod
    def check_integrity(self) -> None:
        """Raise AssertionError when the books do not balance."""


def retentions(chunks: Sequence[int | None]) -> tuple[LayerRetention, ...]:
    """Return each layer's retention from its attention chunk (None: full attention)."""
    return tuple(LayerRetention(chunk) for chunk in chunks)
