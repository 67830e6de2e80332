"""An engine behind its socket as the server has it, in a thread of the test's process, so that faults can be put in."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

from farspan.builtin.engine import InferenceEngine
from farspan.builtin.engine_channel import EngineChannel
from farspan.builtin.engine_client import EngineClient
from farspan.builtin.engine_host import EngineHost
from farspan.builtin.engine_start import EngineDescription
from farspan.builtin.sampling_params import SamplingParams


class EngineAtSocket:
    """An engine, its host and a client of it; `close` ends them."""

    def __init__(self, engine: InferenceEngine) -> None:
        self.engine = engine
        self._loop = asyncio.new_event_loop()
        mine, theirs = socket.socketpair()
        self._host = EngineHost(engine, EngineChannel(theirs), "probe")
        self._thread = threading.Thread(target=self._host.run)
        self._thread.start()
        ready = EngineChannel(mine).receive()
        assert ready is not None
        self.client = EngineClient(mine, EngineDescription(**ready.header["ready"]), self._join)
        self._loop.run_until_complete(self.client.start())

    def generate(self, prompt: Any, params: SamplingParams) -> list[int]:
        return self._loop.run_until_complete(self._collect(prompt, params))

    def metrics(self) -> str:
        return self._loop.run_until_complete(self.client.metrics()).decode()

    def close(self) -> None:
        self._loop.run_until_complete(self.client.close())
        self._loop.close()

    async def _collect(self, prompt: Any, params: SamplingParams) -> list[int]:
        tokens = await self.client.generate(prompt, params)
        try:
            return [token.token_id async for token in tokens]
        finally:
            tokens.close()

    def _join(self) -> int:
        self._thread.join()
        return 0
