"""A request body as pieces: bytes in memory, and files that go from the page cache to the socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FilePiece:
    """A whole file. However many requests send it, none holds it in memory.

    Args:
        path: The file; it must not change while it is sent.
        size: Its length in bytes.
    """

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class RequestBody:
    """What is sent, in order."""

    pieces: tuple[bytes | FilePiece, ...]

    @property
    def size(self) -> int:
        """Length in bytes."""
        return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in self.pieces)

    def read(self) -> bytes:
        """Return all of it, for bodies that are known to be small."""
        return b"".join(p if isinstance(p, bytes) else p.path.read_bytes() for p in self.pieces)
