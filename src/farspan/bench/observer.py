"""Whoever watches the server while requests are under way: the engine's /metrics, the GPUs, the host.

The run loop starts its observers before the first request, tells them of every request, asks them what the
engine said of itself, and stops them after the last one. An observer that fails never fails the run: it notes
why in what it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from farspan.bench.measure import Result
from farspan.bench.schedule import Job
from farspan.bench.server import ServerInfo


@dataclass(frozen=True, slots=True)
class EngineReading:
    """What an engine said of itself at one moment; None where it does not say.

    Args:
        at_s: When, on `time.perf_counter()`'s clock.
        running: Requests in progress.
        waiting: Requests that wait for room.
        kv_usage: Share of the KV cache in use, 0 to 1.
        preemptions: Requests put back since the server's start.
        prompt_tokens, generation_tokens: Tokens since the server's start.
    """

    at_s: float
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    preemptions: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """The run that an observer is started for.

    Args:
        url: The server's address.
        folder: The run folder, open for writing.
        server: What the server says of itself.
        api_key: Sent as a bearer token; never written.
    """

    url: str
    folder: Path
    server: ServerInfo
    api_key: str | None = None


class Observer:
    """Sees a run from its first request to its last; this one sees nothing. All but `start` and `stop` are
    called on the event loop: be quick.
    """

    async def start(self, run: Observed) -> None:
        """Begin; the first request leaves once this returns."""

    async def stop(self) -> None:
        """End, with everything on disk; called once, also when the run fails or is cancelled."""

    def on_started(self, job: Job, started_s: float) -> None:
        """A request leaves, at `started_s` on `time.perf_counter()`'s clock."""

    def on_first_token(self, job: Job, ttft_s: float) -> None:
        """A request's first token has arrived."""

    def on_request(self, result: Result) -> None:
        """A request is over and its result is on disk."""

    def readings(self, since_s: float, until_s: float) -> Sequence[EngineReading]:
        """Return what the engine said from `since_s` to `until_s` (`time.perf_counter()`), in order of time."""
        return ()
