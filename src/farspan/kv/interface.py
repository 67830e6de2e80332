"""What an engine needs of a KV cache, and nothing about how one keeps it.

An engine opens a sequence for a request, which either gets its room or waits; appends the positions of each step;
writes keys and values layer by layer; reads them back as runs, contiguous pieces in order of position; says which
tokens the step computed; and closes the sequence. Where a run lies, and whether an opened sequence finds its first
tokens already there, is the cache's own affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from farspan.errors import KVError
from farspan.kv.memory.budget.neighbours import RoomWait
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.retention import LayerRetention

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


__all__ = [
    "KVCache",
    "KVCacheError",
    "KVCacheShrunkError",
    "KVStatistics",
    "LayerRetention",
    "NoRoomError",
    "PageRun",
    "RoomWait",
    "SequenceKV",
    "retentions",
]


class KVCacheError(KVError):
    """A request can never fit the cache it was opened on."""


class KVCacheShrunkError(KVCacheError):
    """A request does not fit what others leave of the memory now; it may fit later."""


class PageRun(NamedTuple):
    """Keys and values of consecutive positions, each [tokens, num_kv_heads, head_dim]; views, not copies."""

    key: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True, slots=True)
class KVStatistics:
    """What a cache holds now.

    Attributes:
        capacity_bytes: The most it may take, as things stand now.
        mapped_bytes: What it has taken from the device, memory kept for the next growth included.
        used_bytes: What pages of sequences and of cached prefixes take.
        held_bytes: What pages of open sequences take.
        promised_bytes: What open sequences may still need on top of the pages they hold.
        sequences: Open sequences.
        tokens: Positions appended to open sequences, reused ones included.
        cached_tokens: Tokens of prefixes on the device that a later request may reuse.
        host_bytes: What prefixes kept in host memory take.
        host_tokens: Tokens of these prefixes.
        evicted_tokens: Tokens of prefixes that left the device so far, to the host or for good.
        restored_tokens: Tokens that came back from the host so far.
        lacking_bytes: What requests wait for, of a budget that servers share.
        neighbours_bytes: What other servers of that budget hold.
        segments_created: Segments of memory taken from the device so far.
        segments_destroyed: Segments given back to it so far.
    """

    capacity_bytes: int
    mapped_bytes: int
    used_bytes: int
    held_bytes: int
    promised_bytes: int
    sequences: int
    tokens: int
    cached_tokens: int = 0
    host_bytes: int = 0
    host_tokens: int = 0
    evicted_tokens: int = 0
    restored_tokens: int = 0
    lacking_bytes: int = 0
    neighbours_bytes: int = 0
    segments_created: int = 0
    segments_destroyed: int = 0

    @property
    def needed_bytes(self) -> int:
        """What requests hold and may still need; cached prefixes that nobody uses are not counted."""
        return self.held_bytes + self.promised_bytes


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
            NoRoomError: There is no memory left for it now, though there was when it was opened.
        """

    @abstractmethod
    def write(self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store keys and values, each [tokens, num_kv_heads, head_dim], of appended positions from `start` on."""

    @abstractmethod
    def runs(self, layer: int, start: int, stop: int) -> Iterable[PageRun]:
        """Return the keys and values of positions [start, stop) in order; they must have been written and kept."""

    @abstractmethod
    def computed(self, token_ids: NDArray[np.int32]) -> None:
        """Record that the next positions hold these tokens, written in every layer.

        Later requests may find them from now on, and what no layer needs for the tokens that follow is let go.
        """

    @abstractmethod
    def close(self) -> None:
        """Give everything back; what was computed may stay for later requests. Closing twice does nothing."""


class KVCache(ABC):
    """Room for the keys and values of many sequences."""

    @abstractmethod
    def open(
        self, token_ids: NDArray[np.int32], max_length: int, namespace: bytes = b""
    ) -> SequenceKV | None:
        """Open a sequence that starts with `token_ids` and grows to at most `max_length` positions.

        Prefixes are shared only within a namespace. At least the last of `token_ids` is left to compute: its logits
        choose the next token. Returns None when there is no room now and there may be later.

        Raises:
            KVCacheError: It could not fit even an empty cache.
        """

    @abstractmethod
    def check_fits(self, max_length: int) -> int:
        """Return the bytes that a sequence of at most `max_length` positions needs.

        Raises:
            KVCacheError: It could not fit even an empty cache; a KVCacheShrunkError where it could, had others not
                taken the memory.
        """

    @abstractmethod
    def check_wait(self, max_length: int, wait: RoomWait | None) -> RoomWait:
        """Check that a sequence for which `open` found no room may still come to have it.

        Args:
            max_length: As `open` was given it.
            wait: What the last call for the same request returned; None at the first.

        Raises:
            KVCacheShrunkError: It will not, as things stand: what others need for their requests, or keep and do not
                answer, is too much. What they only keep, or have not said anew since the first call, is waited for.
        """

    @abstractmethod
    def tick(self) -> float | None:
        """Do what is due, such as giving memory back; return in how many seconds to call again, None for no need."""

    @abstractmethod
    def reset_prefixes(self) -> None:
        """Forget every prefix that no open sequence uses."""

    @abstractmethod
    def statistics(self) -> KVStatistics:
        """Return what the cache holds now; any thread may ask, also while another works with the cache."""

    @abstractmethod
    def check_integrity(self) -> None:
        """Raise AssertionError when a count or a state is wrong."""


def retentions(chunks: Sequence[int | None]) -> tuple[LayerRetention, ...]:
    """Return each layer's retention from its attention chunk (None: full attention)."""
    return tuple(LayerRetention(chunk) for chunk in chunks)
