"""A request's times as the engine's own metrics have them, where the request was the only one between two readings."""

from __future__ import annotations

from collections.abc import Sequence

from farspan.engines.metric_source import Measure
from farspan.measurement.observe.scrape import Sample
from farspan.measurement.runs.engine_ttft import EngineTimes


def find_engine_times(samples: Sequence[Sample], since: float, until: float) -> EngineTimes | None:
    """Return the engine's own times of a request; None unless it alone got its first token between two readings.

    Args:
        samples: In order, from before the request to after it.
        since: When the request left, seconds since the epoch.
        until: When it was over.
    """
    before = next((sample for sample in reversed(samples) if sample.time <= since), None)
    after = next((sample for sample in samples if sample.time - sample.took_s >= until), None)
    if before is None or after is None:
        return None

    def grew(measure: Measure) -> float | None:
        if measure not in before.values or measure not in after.values:
            return None
        return after.values[measure] - before.values[measure]

    ttft, decode = grew(Measure.FIRST_TOKEN_SECONDS), grew(Measure.DECODE_SECONDS)
    if grew(Measure.FIRST_TOKENS) != 1 or ttft is None or ttft < 0:
        return None
    return EngineTimes(ttft, decode if decode is not None and decode >= 0 else None)
