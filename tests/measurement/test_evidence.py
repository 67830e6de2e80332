"""What samples prove, and what they do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farspan.engines.metric_source import Measure
from farspan.measurement.observe.evidence import (
    estimate_prefill,
    find_hang,
    find_preemption,
    find_strangers,
    growth,
)
from farspan.measurement.observe.scrape import Sample


def samples(*values: dict[Measure, float], step: float = 1.0) -> list[Sample]:
    return [Sample(100 + i * step, value) for i, value in enumerate(values)]


def test_a_preemption_is_a_counter_that_grew() -> None:
    quiet = [{Measure.PREEMPTIONS: 4.0}] * 3
    assert find_preemption(samples(*quiet)) is None
    assert "2 requests" in (find_preemption(samples(*quiet, {Measure.PREEMPTIONS: 6.0})) or "")
    assert find_preemption(samples({Measure.RUNNING: 1})) is None


@given(st.lists(st.integers(0, 50), min_size=2, max_size=20), st.integers(0, 20))
def test_growth_survives_a_restart(steps: list[int], restart: int) -> None:
    """A counter that starts again from zero loses only what was not read before."""
    total, shown, values = 0, 0, []
    for i, step in enumerate(steps):
        shown = step if i == restart else shown + step
        total += step if i else 0
        values.append({Measure.PREEMPTIONS: float(shown)})
    grown = growth(samples(*values), Measure.PREEMPTIONS)
    assert grown is not None
    assert grown <= total
    if restart == 0 or restart >= len(steps):
        assert grown == total


def test_strangers_are_seen_twice_or_not_at_all() -> None:
    def load(running: float, waiting: float = 0) -> dict[Measure, float]:
        return {Measure.RUNNING: running, Measure.WAITING: waiting}

    assert find_strangers(samples(load(2), load(3), load(2)), 2) is None
    assert "3 requests while we had sent 2" in (find_strangers(samples(load(3), load(2, 1)), 2) or "")
    assert find_strangers(samples(load(5)), 2) is None
    assert find_strangers([], 0) is None


def test_a_hang_needs_waiting_requests_an_idle_engine_and_time() -> None:
    stuck = {Measure.RUNNING: 0.0, Measure.WAITING: 1.0, Measure.KV_USAGE: 0.0, Measure.PROMPT_TOKENS: 7.0}
    assert find_hang(samples(*[stuck] * 61), 60) is not None
    assert find_hang(samples(*[stuck] * 60), 60) is None, "59 seconds are not 60"
    assert find_hang(samples(*[stuck | {Measure.WAITING: 0}] * 90), 60) is None, "idle with nothing to do"
    assert find_hang(samples(*[stuck | {Measure.RUNNING: 1}] * 90), 60) is None, "a long prefill is no hang"
    moving = [stuck | {Measure.PROMPT_TOKENS: float(i)} for i in range(90)]
    assert find_hang(samples(*moving), 60) is None
    later = [stuck | {Measure.PROMPT_TOKENS: 1.0}] * 30 + [stuck] * 40
    assert find_hang(samples(*later), 60) is None, "it stood still for 39 seconds only"
    assert find_hang([], 60) is None


def test_prefill_progress_takes_the_best_measure_there_is() -> None:
    before = Sample(0, {Measure.KV_TOKENS: 1000.0, Measure.PREFILLED_TOKENS: 50.0})
    now = Sample(9, {Measure.KV_TOKENS: 3000.0, Measure.PREFILLED_TOKENS: 5050.0})
    progress = estimate_prefill(before, now, 10_000)
    assert progress is not None
    assert (progress.fraction, progress.measure) == (0.5, Measure.PREFILLED_TOKENS)
    only_kv = estimate_prefill(Sample(0, {Measure.KV_TOKENS: 1000.0}), now, 10_000)
    assert only_kv is not None
    assert (only_kv.fraction, only_kv.measure) == (0.2, Measure.KV_TOKENS)
    assert estimate_prefill(Sample(0, {}), now, 10_000) is None
    over = estimate_prefill(before, now, 100)
    assert over is not None
    assert over.fraction == 1.0
