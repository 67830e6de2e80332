"""Runs an engine in a thread of its own and hands its tokens on."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from farspan.builtin.engine import InferenceEngine, Output
from farspan.builtin.engine_channel import RequestFailedError, RequestNoRoomError
from farspan.builtin.engine_metrics import EngineMetrics
from farspan.builtin.scheduler import FinishReason, Request
from farspan.errors import FarspanError, KVError

_LOG = logging.getLogger(__name__)
_LONGEST_ERROR = 500  # characters: torch adds the C++ stack to some
_NO_ROOM_POLL_S = 0.02


class StepToken(NamedTuple):
    """One token of an answer, with what the server's usage report needs."""

    request_id: str
    token_id: int
    finish_reason: FinishReason | None
    cached_tokens: int


class Failed(NamedTuple):
    """A request that has ended without its answer."""

    request_id: str
    error: FarspanError


@dataclass(slots=True, eq=False)
class _BegunRequest:
    """A request in flight and the times its metrics need."""

    request: Request
    arrived: float
    last: float
    started: bool = False


class EngineRunner:
    """Owns the engine's thread.

    Args:
        engine: What it runs; it is closed at the end.
        metrics: Where it counts.
        deliver: Called in the engine's thread with what a step brought.
        ended: Called in the engine's thread when it no longer runs, whatever the reason; who waits for a request is to
            hear of it that way.

    Attributes:
        failed: Whether the engine has ended without being told to.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        metrics: EngineMetrics,
        deliver: Callable[[list[StepToken | Failed]], None],
        ended: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._send = deliver
        self._say_ended = ended
        metrics.watch_kv(engine.statistics)
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._in_flight: dict[str, _BegunRequest] = {}
        self._thread = threading.Thread(target=self._run, name="farspan-engine", daemon=True)
        self.failed = False
        self._stepped = False  # whether a step was taken since commands were last waited for

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; requests in flight fail."""
        self._commands.put(None)
        self._thread.join()

    def check(self, request: Request) -> None:
        """Check that a request could be served on an empty engine.

        Raises:
            InputError: The prompt is too long for this server.
            KVCacheError: It needs more KV cache than there is.
        """
        self._engine.check(len(request.prompt), request.params.max_tokens)

    def begin(self, request: Request) -> None:
        """Queue a request that `check` has passed; its tokens, or its failure, are delivered."""
        now = time.monotonic()
        self._commands.put(lambda: self._begin(_BegunRequest(request, arrived=now, last=now)))

    def abort(self, request_id: str) -> None:
        """Drop a request; one that has ended, or never was, is left alone."""
        self._commands.put(lambda: self._abort(request_id))

    def reset_prefix_cache(self) -> None:
        """Forget every prefix that no request in progress uses, before the engine's next step."""
        self._commands.put(self._reset_prefixes)

    def _begin(self, begun: _BegunRequest) -> None:
        request = begun.request
        self._in_flight[request.request_id] = begun
        try:
            self._engine.add(request)
        except Exception as error:  # noqa: BLE001 whatever it is, it is that one's
            _LOG.exception("request %s could not be queued", request.request_id)
            del self._in_flight[request.request_id]
            self._metrics.finished(FinishReason.ERROR)
            self._send([Failed(request.request_id, _failed(error))])

    def _reset_prefixes(self) -> None:
        try:
            self._engine.reset_prefix_cache()
        except Exception:  # noqa: BLE001 whatever it is, it is that one's
            _LOG.exception("the prefix cache could not be reset")

    def _abort(self, request_id: str) -> None:
        begun = self._in_flight.pop(request_id, None)
        if begun is not None:
            self._engine.abort(begun.request)
            self._metrics.finished("abort")

    def _run(self) -> None:
        try:
            while self._take_commands():
                outputs = self._engine.step()
                self._stepped = True
                self._note_started()
                self._publish_state()
                self._deliver(outputs)
        except Exception:  # noqa: BLE001 whatever it was, nobody may wait for ever
            _LOG.exception("the engine failed")
            self.failed = True
        self._in_flight.clear()
        self._say_ended()
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
            try:
                command = self._commands.get(block=stuck or not busy, timeout=wait)
            except queue.Empty:
                if busy:
                    return True
                continue
            if command is None:
                return False
            command()
            self._publish_state()

    def _note_started(self) -> None:
        for begun in self._in_flight.values():
            request = begun.request
            if not begun.started and request.admitted is not None:
                begun.started = True
                self._metrics.queue_time.observe(request.admitted - begun.arrived)
                self._metrics.prefix_queries.inc(len(request.prompt))
                self._metrics.prefix_hits.inc(request.cached_tokens or 0)

    def _deliver(self, outputs: list[Output]) -> None:
        """Count what a step brought and send it in one piece: who has the last token finds it in the metrics."""
        now = time.monotonic()
        brought = [self._note(output, now) for output in outputs]
        self._send([item for item in brought if item is not None])

    def _note(self, output: Output, now: float) -> StepToken | Failed | None:
        request = output.request
        begun = self._in_flight.get(request.request_id)
        if begun is None:
            return None
        if output.finish_reason is not None:
            del self._in_flight[request.request_id]
            self._metrics.finished(output.finish_reason)
            self._metrics.e2e_latency.observe(now - begun.arrived)
        if output.token_id is None:
            return Failed(request.request_id, _failed(output.exception or RuntimeError(output.error)))
        self._measure(begun, now)
        begun.last = now
        return StepToken(
            request.request_id, output.token_id, output.finish_reason, request.cached_tokens or 0
        )

    def _measure(self, begun: _BegunRequest, now: float) -> None:
        self._metrics.generation_tokens.inc()
        if len(begun.request.output) == 1:
            self._metrics.prompt_tokens.inc(len(begun.request.prompt))
            self._metrics.time_to_first_token.observe(now - begun.arrived)
        else:
            self._metrics.inter_token_latency.observe(now - begun.last)

    def _publish_state(self) -> None:
        engine = self._engine
        try:
            self._metrics.set_state(
                engine.num_running, engine.num_waiting, engine.num_preemptions, engine.statistics()
            )
        except Exception:  # noqa: BLE001 whatever it is, it is that one's
            _LOG.exception("the metrics could not be read")


def _failed(error: Exception) -> RequestFailedError:
    kind = RequestNoRoomError if isinstance(error, KVError) else RequestFailedError
    said = " ".join(str(error).split())[:_LONGEST_ERROR] or type(error).__name__
    return kind(f"the engine failed on this request: {said}")
