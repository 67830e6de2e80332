"""What the server asks of the engine in its other process, and the requests that are in flight there."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from farspan.builtin.engine_channel import HEAD, EngineStoppedError, engine_stopped, pack_head, unpack_error
from farspan.builtin.engine_start import EngineDescription
from farspan.builtin.sampling_params import SamplingParams
from farspan.errors import FarspanError

_LOG = logging.getLogger(__name__)
_METRICS_S = 30.0


class Generated(NamedTuple):
    """One token of an answer, with what the server's usage report needs."""

    token_id: int
    finish_reason: str | None
    cached_tokens: int


class TokenStream:
    """The tokens of one request in flight; closing it early aborts the request.

    Iterating raises RequestFailedError when the engine failed on this request, and EngineStoppedError when it no longer
    runs.
    """

    def __init__(self, client: EngineClient, request_id: str) -> None:
        self._client = client
        self._id = request_id
        self._ended = False
        self.arrived: asyncio.Queue[Generated | FarspanError | None] = asyncio.Queue()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Generated:
        if self._ended:
            raise StopAsyncIteration
        item = await self.arrived.get()
        assert item is not None, "a request is accepted once"
        self._ended = isinstance(item, FarspanError) or item.finish_reason is not None
        if isinstance(item, FarspanError):
            raise item
        return item

    async def accepted(self) -> None:
        """Wait until the engine has queued the request.

        Raises:
            FarspanError: It refuses, or no longer runs.
        """
        item = await self.arrived.get()
        if isinstance(item, FarspanError):
            self._ended = True
            raise item

    def close(self) -> None:
        """Let go of the request; may be called again."""
        self._client.forget(self._id, abort=not self._ended)
        self._ended = True


class EngineClient:
    """Speaks to an engine from one asyncio loop.

    Args:
        connection: The socket to it.
        description: What it said when it was ready.
        end: Ends its process and returns how it ended; called in a thread.
    """

    def __init__(
        self,
        connection: socket.socket,
        description: EngineDescription,
        end: Callable[[], int],
    ) -> None:
        self.description = description
        self._connection = connection
        self._end = end
        self._alive = self._closing = False
        self._numbers = map(str, itertools.count(1))
        self._streams: dict[str, TokenStream] = {}
        self._expositions: dict[str, asyncio.Future[bytes]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen to the engine."""
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        self._alive = True
        self._reading = asyncio.create_task(self._read(reader))

    async def close(self) -> None:
        """End the engine; requests in flight fail."""
        self._closing = True
        if self._writer is not None and self._reading is not None:
            self._writer.transport.abort()
            await self._reading

    @property
    def alive(self) -> bool:
        """Whether the engine still runs."""
        return self._alive

    async def generate(
        self, prompt: NDArray[np.int32], params: SamplingParams, namespace: str = ""
    ) -> TokenStream:
        """Queue a request and return its tokens to come; the caller closes them.

        Args:
            prompt: Token ids, int32 [tokens].
            params: How its tokens are chosen.
            namespace: Prefixes are shared only with requests of the same one.

        Raises:
            InputError: The prompt is too long for this server.
            KVCacheError: It needs more KV cache than there is.
            EngineStoppedError: The engine no longer runs.
        """
        request_id = next(self._numbers)
        header = {"do": "generate", "id": request_id, "params": asdict(params), "namespace": namespace}
        self._send(header, prompt.tobytes())
        stream = self._streams[request_id] = TokenStream(self, request_id)
        try:
            await stream.accepted()
        except BaseException:
            stream.close()
            raise
        return stream

    def forget(self, request_id: str, *, abort: bool) -> None:
        """Hand on no more tokens of a request, and have the engine drop it."""
        if self._streams.pop(request_id, None) is not None and abort and self.alive:
            self._send({"do": "abort", "id": request_id})

    def reset_prefix_cache(self) -> None:
        """Forget every prefix that no request in progress uses, before the engine's next step.

        Raises:
            EngineStoppedError: The engine no longer runs.
        """
        self._send({"do": "reset"})

    async def metrics(self) -> bytes:
        """Return the text that Prometheus scrapes.

        Raises:
            EngineStoppedError: The engine no longer runs, or does not answer.
        """
        request_id = next(self._numbers)
        self._send({"do": "metrics", "id": request_id})
        future = self._expositions[request_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_METRICS_S):
                return bytes(await future)
        except TimeoutError:
            raise EngineStoppedError(f"the engine has not said its metrics in {_METRICS_S:.0f} s") from None
        finally:
            del self._expositions[request_id]

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        if self._writer is None or not self._alive:
            raise engine_stopped()
        self._writer.write(pack_head(header, len(payload)))
        if payload:
            self._writer.write(payload)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                sizes = HEAD.unpack(await reader.readexactly(HEAD.size))
                header, payload = [await reader.readexactly(size) for size in sizes]
                self._take(orjson.loads(header), payload)
        except (asyncio.IncompleteReadError, OSError):
            pass  # it has ended, as it was told to or otherwise
        finally:
            self._alive = False
            for stream in self._streams.values():
                stream.arrived.put_nowait(engine_stopped())
            for future in self._expositions.values():
                if not future.done():
                    future.set_exception(engine_stopped())
        code = await asyncio.to_thread(self._end)
        if not self._closing:
            _LOG.error("the engine has ended (%d); /health answers 503 until the server is restarted", code)

    def _take(self, header: dict[str, Any], payload: bytes) -> None:
        if "metrics" in header:
            future = self._expositions.get(header["metrics"])
            if future is not None and not future.done():
                future.set_result(payload)
        if "accepted" in header:
            self._hand_on(header["accepted"], None)
        for request_id, *token in header.get("tokens", ()):
            self._hand_on(request_id, Generated(*token))
        for request_id, error in header.get("failed", ()):
            self._hand_on(request_id, unpack_error(error))

    def _hand_on(self, request_id: str, item: Generated | FarspanError | None) -> None:
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.arrived.put_nowait(item)
