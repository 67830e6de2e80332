"""What an external indexer needs to follow a prefix tree: pages stored and removed, as hashes that chain.

The shape of the information is vLLM's (vllm 0.12.0 distributed/kv_events.py: BlockStored, BlockRemoved): a page's hash
covers the page before it, so one hash names a whole prefix, and a stored event carries the token ids and the hash it
continues. A hash is the first 8 bytes of BLAKE2b over (the hash before, the page's token ids as little-endian int32);
the first page of a namespace continues the hash of the namespace's name. It is the same in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Location(IntEnum):
    """Where pages are."""

    DEVICE = 0
    HOST = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """Pages of the primary kind that can be matched from now on.

    Attributes:
        hashes: uint64, one a page, in order.
        parent: The hash of the page before the first; None at the start of a sequence.
        tokens: int32 token ids of the pages, `page_size` each.
        page_size: Tokens a page.
        namespace: The name the tokens were inserted under.
        location: Where the pages are.
    """

    hashes: NDArray[np.uint64]
    parent: int | None
    tokens: NDArray[np.int32]
    page_size: int
    namespace: bytes
    location: Location


@dataclass(frozen=True, slots=True)
class Removed:
    """Pages that can no longer be matched at `location`; hashes: uint64, one a page."""

    hashes: NDArray[np.uint64]
    location: Location


Event = Stored | Removed
Listener = Callable[[Event], None]


def namespace_hash(namespace: bytes) -> int:
    """Return the hash that the first page of a namespace continues."""
    return int.from_bytes(hashlib.blake2b(namespace, digest_size=8, person=b"namespace").digest(), "little")


def chain(parent: int, tokens: NDArray[np.int32], page_size: int) -> NDArray[np.uint64]:
    """Return the hash of every page of `tokens` (whole pages), each covering those before it."""
    data = tokens.astype("<i4", copy=False).tobytes()
    step = 4 * page_size
    digest = parent.to_bytes(8, "little")
    hashes = bytearray()
    for at in range(0, len(data), step):
        digest = hashlib.blake2b(digest + data[at : at + step], digest_size=8).digest()
        hashes += digest
    return np.frombuffer(bytes(hashes), dtype="<u8").astype(np.uint64)
