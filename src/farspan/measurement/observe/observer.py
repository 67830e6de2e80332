"""Whoever watches the server while requests are under way: the engine's /metrics, the GPUs.

The run loop starts its observers before the first request, tells them of every request, asks them what they can
prove about it, and stops them after the last one. An observer that fails never fails the run: it notes why in what
it writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farspan.measurement.http.target import ServerInfo
from farspan.measurement.runs.engine_ttft import EngineTimes
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.result import Result


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """The run that an observer is started for.

    Args:
        url: The server's address.
        folder: The run folder, open for writing.
        server: What the server says of itself.
        start: Which start of the run this is, from 0: more than 0 when it is resumed.
        api_key: Sent as a bearer token; never written.
    """

    url: str
    folder: Path
    server: ServerInfo
    start: int = 0
    api_key: str | None = None


class Observer:
    """Sees a run from its first request to its last; this one sees nothing. All but `start` and `stop` are called on
    the event loop: be quick. Times are seconds since the epoch.
    """

    async def start(self, run: ObservedRun) -> None:
        """Begin; the first request leaves once this returns."""

    async def stop(self) -> None:
        """End, with everything on disk; called once, also when the run fails or is cancelled."""

    def on_started(self, job: Job, at: float) -> None:
        """A request leaves."""

    def on_first_token(self, job: Job, ttft_s: float) -> None:
        """A request's first token has arrived."""

    def on_request(self, result: Result) -> None:
        """A request is over and its result is on disk."""

    def find_labels(
        self,
        since: float,  # noqa: ARG002
        until: float,  # noqa: ARG002
        own_requests: int,  # noqa: ARG002
    ) -> Mapping[str, str]:
        """Return what limits the trust in a request that has just ended: label to evidence.

        Args:
            since: When it left.
            until: When it was over.
            own_requests: The most requests that we had under way at a time meanwhile, this one included.
        """
        return {}

    async def settle(self, took_s: float) -> None:
        """Note how the server stands, now that none of our requests is under way and before the next one leaves.

        Args:
            took_s: How long what is over took, a request that was alone or several together: be much quicker.
        """

    def find_engine_times(self, since: float, until: float) -> EngineTimes | None:  # noqa: ARG002
        """Return the engine's own times of a request that was alone, after `settle`; None where it does not tell.

        Args:
            since: When the request left.
            until: When it was over.
        """
        return None

    def find_hang(self) -> str:
        """Say why the engine will never get to the requests that wait; empty when nothing proves it."""
        return ""

    def find_fault(self) -> str:
        """Say, when the run is over, what could not be observed and why; empty when all was."""
        return ""

    def describe_progress(self) -> str:
        """Say how far the engine is, in one short line for the live display; empty when it is not known."""
        return ""
