"""Request bodies: received piece by piece into files in memory, within a limit, and never held by the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from fastapi import Request

from farspan.errors import FarspanError

_BASE_BYTES = 2**20
# The longest that tokens take in JSON: ids take 8 and English text 5; this is a dozen escaped characters less one.
_BYTES_PER_TOKEN = 32
_BODIES_AT_ONCE = 8
_PIECE_TIMEOUT_S = 60.0


class RefusedBodyError(FarspanError):
    """A body is not accepted; `status` is the HTTP status that says so."""

    def __init__(self, status: int, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.status = status


class ReceivedBody(NamedTuple):
    """A request's body in a file of its own, which its reader closes."""

    fd: int
    size: int


def body_limit(max_model_len: int) -> int:
    """Return the most bytes that a body may have: what a request of the longest context can need."""
    return _BASE_BYTES + _BYTES_PER_TOKEN * max_model_len


class BodyReader:
    """Receives bodies, each of at most `limit` bytes, and not more of them at once than fit a few limits.

    Args:
        limit: The most bytes of one body.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[ReceivedBody]:
        """Receive a request's body; its file lives as long as the context.

        Raises:
            RefusedBodyError: It is too large or too slow, or too much is being received.
            ClientDisconnect: The client went away.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self.limit):
            raise self._too_large()
        size = 0
        fd = os.memfd_create("farspan-body", os.MFD_CLOEXEC)
        try:
            pieces = request.stream()
            while True:
                try:
                    async with asyncio.timeout(_PIECE_TIMEOUT_S):
                        piece = await anext(pieces, None)
                except TimeoutError:
                    raise RefusedBodyError(408, "the body did not come in time") from None
                if piece is None:
                    break
                size += len(piece)
                self._held += len(piece)
                if size > self.limit:
                    raise self._too_large()
                if self._held > _BODIES_AT_ONCE * self.limit:
                    raise RefusedBodyError(503, "too many large requests at once", "send it again later")
                os.write(fd, piece)
            yield ReceivedBody(fd, size)
        finally:
            self._held -= size
            os.close(fd)

    def _too_large(self) -> RefusedBodyError:
        return RefusedBodyError(
            413,
            f"the body is larger than the {self.limit:,} bytes that a request of this server's context can need",
            "send a shorter prompt or start the server with a larger --max-model-len",
        )
