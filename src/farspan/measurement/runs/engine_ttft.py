"""The engine's own times: of one request, and its mean time to first token beside ours over the same requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Any

from farspan.engines.metric_source import Measure
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.series import Reading

_START_S = 0.001  # a result keeps its start to the millisecond


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """What an engine says of one request.

    Args:
        ttft_s: From the request's arrival in the engine to its first token.
        decode_s: From the first token to the last, where the process that computes times it itself; else None.
    """

    ttft_s: float
    decode_s: float | None = None


@dataclass(frozen=True, slots=True)
class EngineTtft:
    """What an engine's metrics say of the first tokens of some time.

    Args:
        requests: How many requests got their first token.
        mean_s: Their mean time from arrival to it.
        client_mean_s: The mean TTFT that we saw; None where they are not exactly our requests.
    """

    requests: int
    mean_s: float
    client_mean_s: float | None

    @property
    def late_s(self) -> float | None:
        """By how much the client's mean is longer; None where the requests are not the same."""
        return None if self.client_mean_s is None else self.client_mean_s - self.mean_s

    def to_json(self) -> dict[str, Any]:
        """It as plain data."""
        return {
            "requests": self.requests,
            "mean_s": self.mean_s,
            "client_mean_s": self.client_mean_s,
            "late_s": self.late_s,
        }


def find_engine_ttft(
    readings: Mapping[str, Sequence[Reading]], results: Sequence[Result]
) -> EngineTtft | None:
    """Return the engine's mean TTFT from before the first of some requests to after the last of them.

    Args:
        readings: What was read of the engine, by measure, in order of time.
        results: The requests, of any phase.

    Returns:
        None where the engine told nothing before them or after them, or none got a token.
    """
    if not results:
        return None
    began = [datetime.fromisoformat(result.started_at).timestamp() for result in results if result.started_at]
    if len(began) < len(results):
        return None
    ended = max(start + result.e2e_s for start, result in zip(began, results, strict=True))
    count = _grew(readings.get(Measure.FIRST_TOKENS.value, ()), min(began), ended)
    seconds = _grew(readings.get(Measure.FIRST_TOKEN_SECONDS.value, ()), min(began), ended)
    if not count or count < 0 or seconds is None or seconds < 0:
        return None
    seen = [result.ttft_s for result in results if result.ttft_s is not None]
    return EngineTtft(round(count), seconds / count, fmean(seen) if len(seen) == count else None)


def _grew(readings: Sequence[Reading], since: float, until: float) -> float | None:
    before = next((reading.value for reading in reversed(readings) if reading.time <= since + _START_S), None)
    after = next((reading.value for reading in readings if reading.time >= until), None)
    return None if before is None or after is None else after - before
