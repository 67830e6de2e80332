"""Runs an engine in a thread of its own and hands its tokens to asyncio."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farspan.builtin.engine import InferenceEngine, Output
from farspan.builtin.engine_metrics import EngineMetrics
from farspan.builtin.sampling_params import SamplingParams
from farspan.builtin.scheduler import FinishReason, Request
from farspan.errors import FarspanError, KVError

_LOG = logging.getLogger(__name__)
_LONGEST_ERROR = 500  # characters: torch adds the C++ stack to some
_NO_ROOM_POLL_S = 0.02


class EngineStoppedError(FarspanError):
    """The engine no longer runs."""


class RequestFailedError(FarspanError):
    """The engine could not finish this request; others go on."""


class RequestNoRoomError(RequestFailedError):
    """Memory that was there when this request was queued has been taken by others; it may be sent again."""


class Generated(NamedTuple):
    """One token of an answer, with what the server's usage report needs."""

    token_id: int
    finish_reason: FinishReason | None
    cached_tokens: int


@dataclass(slots=True, eq=False)
class _Stream:
    """A request in flight: where its outputs go, and the times its metrics need."""

    request: Request
    loop: asyncio.AbstractEventLoop
    outputs: asyncio.Queue[Generated | FarspanError]
    arrived: float
    last: float
    started: bool = False

    def send(self, item: Generated | FarspanError) -> None:
        try:
            self.loop.call_soon_threadsafe(self.outputs.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody is listening any more
            _LOG.debug("request %s ended after its listener", self.request.request_id)


class EngineRunner:
    """Owns the engine's thread. Requests may be generated from any asyncio loop."""

    def __init__(self, engine: InferenceEngine, metrics: EngineMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        metrics.watch_kv(engine.statistics)
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._thread = threading.Thread(target=self._run, name="farspan-engine", daemon=True)
        self._counter = 0
        self._ended = False
        self._stepped = False  # whether a step was taken since commands were last waited for

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; requests in flight fail."""
        self._commands.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the engine still runs."""
        return self._thread.is_alive() and not self._ended

    def reset_prefix_cache(self) -> None:
        """Forget every prefix that no request in progress uses, before the engine's next step."""
        self._commands.put(self._reset_prefixes)

    async def generate(
        self, prompt: NDArray[np.int32], params: SamplingParams, namespace: bytes = b""
    ) -> AsyncIterator[Generated]:
        """Yield the tokens that answer a prompt; leaving early, or being cancelled, aborts the request.

        Args:
            prompt: Token ids, int32 [tokens].
            params: How its tokens are chosen.
            namespace: Prefixes are shared only with requests of the same one.

        Raises:
            InputError: The prompt is too long for this server.
            KVCacheError: It needs more KV cache than there is.
            EngineStoppedError: The engine no longer runs.
            RequestFailedError: The engine failed on this request.
        """
        self._engine.check(len(prompt), params.max_tokens)
        self._counter += 1
        now = time.monotonic()
        stream = _Stream(
            request=Request(str(self._counter), prompt, params, namespace),
            loop=asyncio.get_running_loop(),
            outputs=asyncio.Queue(),
            arrived=now,
            last=now,
        )
        self._commands.put(lambda: self._begin(stream))
        try:
            if not self.alive:
                raise _stopped()
            while True:
                item = await stream.outputs.get()
                if isinstance(item, FarspanError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            self._commands.put(lambda: self._abort(stream))

    def _begin(self, stream: _Stream) -> None:
        if self._ended:
            stream.send(_stopped())
            return
        self._streams[stream.request.request_id] = stream
        try:
            self._engine.add(stream.request)
        except Exception as error:  # noqa: BLE001 whatever it is, it is that one's
            _LOG.exception("request %s could not be queued", stream.request.request_id)
            del self._streams[stream.request.request_id]
            self._metrics.finished(FinishReason.ERROR)
            stream.send(_failed(error))

    def _reset_prefixes(self) -> None:
        if self._ended:
            return
        try:
            self._engine.reset_prefix_cache()
        except Exception:  # noqa: BLE001 whatever it is, it is that one's
            _LOG.exception("the prefix cache could not be reset")

    def _abort(self, stream: _Stream) -> None:
        if self._streams.pop(stream.request.request_id, None) is not None:
            self._engine.abort(stream.request)
            self._metrics.finished("abort")

    def _run(self) -> None:
        try:
            while self._take_commands():
                outputs = self._engine.step()
                self._stepped = True
                self._note_started()
                self._publish_state()
                for output in outputs:
                    self._deliver(output)
        except Exception:  # noqa: BLE001 whatever it was, nobody may wait for ever
            _LOG.exception("the engine failed")
        self._ended = True
        for stream in self._streams.values():
            stream.send(_stopped())
        self._streams.clear()
        # Those that came too late to be begun hear of it too.
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                break
            if command is not None:
                command()
        self._engine.close()

    def _take_commands(self) -> bool:
        """Carry out what was asked for, waiting for something when there is no work; False when told to stop."""
        while True:
            busy = self._engine.has_work
            # Memory is given back while nobody asks for anything, too. Requests that wait for room with nothing in
            # progress wait for memory that others hold: that is looked at again in a moment, not in a loop.
            stuck = busy and self._stepped and self._engine.num_running == 0
            wait = _NO_ROOM_POLL_S if stuck else None if busy else self._engine.tick()
            self._stepped = False
            self._publish_state()
            try:
                command = self._commands.get(block=stuck or not busy, timeout=wait)
            except queue.Empty:
                if busy:
                    return True
                continue
            if command is None:
                return False
            command()

    def _note_started(self) -> None:
        for stream in self._streams.values():
            request = stream.request
            if not stream.started and request.admitted is not None:
                stream.started = True
                self._metrics.queue_time.observe(request.admitted - stream.arrived)
                self._metrics.prefix_queries.inc(len(request.prompt))
                self._metrics.prefix_hits.inc(request.cached_tokens or 0)

    def _deliver(self, output: Output) -> None:
        stream = self._streams.get(output.request.request_id)
        if stream is None:
            return
        now = time.monotonic()
        # Counted before it is sent: who has the last token finds it in the metrics.
        if output.finish_reason is not None:
            del self._streams[output.request.request_id]
            self._metrics.finished(output.finish_reason)
            self._metrics.e2e_latency.observe(now - stream.arrived)
        if output.token_id is None:
            stream.send(_failed(output.exception or RuntimeError(output.error)))
        else:
            self._measure(stream, now)
            cached = output.request.cached_tokens or 0
            stream.send(Generated(output.token_id, output.finish_reason, cached))
        stream.last = now

    def _measure(self, stream: _Stream, now: float) -> None:
        self._metrics.generation_tokens.inc()
        if len(stream.request.output) == 1:
            self._metrics.prompt_tokens.inc(len(stream.request.prompt))
            self._metrics.time_to_first_token.observe(now - stream.arrived)
        else:
            self._metrics.inter_token_latency.observe(now - stream.last)

    def _publish_state(self) -> None:
        engine = self._engine
        try:
            self._metrics.set_state(
                engine.num_running, engine.num_waiting, engine.num_preemptions, engine.statistics()
            )
        except Exception:  # noqa: BLE001 whatever it is, it is that one's
            _LOG.exception("the metrics could not be read")


def _stopped() -> EngineStoppedError:
    return EngineStoppedError("the engine has stopped", "restart the server and look at its log")


def _failed(error: Exception) -> RequestFailedError:
    kind = RequestNoRoomError if isinstance(error, KVError) else RequestFailedError
    said = " ".join(str(error).split())[:_LONGEST_ERROR] or type(error).__name__
    return kind(f"the engine failed on this request: {said}")
