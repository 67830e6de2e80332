"""The observer that reads the engine's /metrics and this machine's GPUs while a run goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from farspan.engines.metric_source import Measure
from farspan.measurement.http.target import is_same_origin
from farspan.measurement.observe.engine_times import find_engine_times
from farspan.measurement.observe.evidence import estimate_prefill, find_hang, find_preemption, find_strangers
from farspan.measurement.observe.gpu_sampler import is_here, open_gpus
from farspan.measurement.observe.observer import ObservedRun, Observer
from farspan.measurement.observe.scrape import Sample, Scraper
from farspan.measurement.observe.telemetry import Telemetry
from farspan.measurement.runs.engine_ttft import EngineTimes
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.result import Result
from farspan.sizes import format_tokens

INTERVAL_S = 1.0
# Requests wait for a reading between them only where they take so many times as long as it.
_WORTH_A_READING = 10


@dataclass(slots=True)
class _Prefill:
    """The prompts sent since the engine was last without one of ours, and what it said before the first."""

    before: Sample | None
    tokens: int
    furthest: float = (
        0.0  # the KV of a hybrid model rises and falls by a window as chunks go by; a prefill does not
    )


class EngineObserver(Observer):
    """Keeps the time series of a run in its folder, proves labels with it and says how far a prefill is.

    Args:
        interval_s: Seconds from one reading to the next.
        metrics_url: Where the engine's metrics are; None is /metrics on the server's address.
        quiet_s: How long an engine must stand still with requests waiting to be called hung.
    """

    def __init__(
        self, *, interval_s: float = INTERVAL_S, metrics_url: str | None = None, quiet_s: float = 60.0
    ) -> None:
        self._interval = interval_s
        self._url = metrics_url
        self._quiet = quiet_s
        self._telemetry: Telemetry | None = None
        self._waiting: set[Job] = set()  # sent, no token yet
        self._prefill: _Prefill | None = None

    async def start(self, run: ObservedRun) -> None:
        """Open the GPUs and begin to read."""
        local = await asyncio.to_thread(is_here, run.url)
        scraper = Scraper(
            self._url or f"{run.url}/metrics",
            # A key for the server is not for whoever else has its metrics.
            api_key=run.api_key if self._url is None or is_same_origin(self._url, run.url) else None,
            engine=run.server.owned_by,
        )
        self._telemetry = Telemetry(
            run.folder,
            start=run.start,
            scraper=scraper,
            gpus=await asyncio.to_thread(open_gpus) if local else None,
            interval_s=self._interval,
        )
        self._telemetry.__enter__()
        # How it stands before the first request; a server without metrics says so as quickly.
        await asyncio.to_thread(self._telemetry.read_now)

    async def stop(self) -> None:
        """End; the series is on disk."""
        if self._telemetry is not None:
            await asyncio.to_thread(self._telemetry.__exit__, None, None, None)

    def on_started(self, job: Job, at: float) -> None:  # noqa: ARG002
        """Note what the engine said before the prompt came."""
        latest = None if self._telemetry is None else self._telemetry.latest()
        if not self._waiting or self._prefill is None:
            self._prefill = _Prefill(latest, 0)
        self._prefill.tokens += job.context
        self._waiting.add(job)

    def on_first_token(self, job: Job, ttft_s: float) -> None:  # noqa: ARG002
        """Note that the prompt is computed."""
        self._waiting.discard(job)

    def on_request(self, result: Result) -> None:
        """Note that the request is over."""
        self._waiting.discard(result.job)

    def find_labels(self, since: float, until: float, own_requests: int) -> Mapping[str, str]:
        """Return `preempted` and `co-running` where the engine's metrics prove them."""
        if self._telemetry is None:
            return {}
        margin = 2 * self._interval  # counters are read once an interval
        labels = {
            "preempted": find_preemption(self._telemetry.between(since - margin, until)),
            "co-running": find_strangers(self._telemetry.between(since, until), own_requests),
        }
        return {name: evidence for name, evidence in labels.items() if evidence is not None}

    async def settle(self, took_s: float) -> None:
        """Read the engine's metrics, where that is quick beside the request."""
        latest = None if self._telemetry is None else self._telemetry.latest()
        if self._telemetry is None or latest is None or Measure.FIRST_TOKENS not in latest.values:
            return
        if took_s >= _WORTH_A_READING * latest.took_s:
            await asyncio.to_thread(self._telemetry.read_now)

    def find_engine_times(self, since: float, until: float) -> EngineTimes | None:
        """Return the engine's own times of a request."""
        if self._telemetry is None:
            return None
        return find_engine_times(self._telemetry.around(since, until), since, until)

    def find_hang(self) -> str:
        """Say why the engine will never get to the requests that wait."""
        if self._telemetry is None:
            return ""
        now = time.time()
        # A little more than must be quiet: the samples at both ends are needed.
        samples = self._telemetry.between(now - self._quiet - 3 * self._interval - 5, now)
        return find_hang(samples, self._quiet) or ""

    def find_fault(self) -> str:
        """Say why nothing was read of the engine, or nothing written."""
        telemetry = self._telemetry
        if telemetry is None:
            return ""
        if telemetry.failure:
            return telemetry.failure
        if telemetry.latest() is None and telemetry.reason:
            return (
                f"the engine's metrics could not be read ({telemetry.reason}):"
                " whether it hung, preempted or served others cannot be told"
            )
        return ""

    def describe_progress(self) -> str:
        """Say how far the prefill is, or what the engine says of itself."""
        latest = None if self._telemetry is None else self._telemetry.latest()
        if latest is None:
            return ""
        words = []
        if self._waiting and self._prefill is not None and self._prefill.before is not None:
            progress = estimate_prefill(self._prefill.before, latest, self._prefill.tokens)
            if progress is not None:
                furthest = self._prefill.furthest = max(self._prefill.furthest, progress.fraction)
                words.append(f"prefill about {furthest:.0%} of {format_tokens(progress.of)} tokens")
        usage, running = latest.values.get(Measure.KV_USAGE), latest.values.get(Measure.RUNNING)
        if usage is not None:
            words.append(f"KV {usage:.1%}")
        if running is not None:
            words.append(f"{running:.0f} running, {latest.values.get(Measure.WAITING, 0):.0f} waiting")
        return ", ".join(words)
