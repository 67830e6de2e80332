from __future__ import annotations

import numpy as np
import pytest

from farspan.measurement.analysis.spread import (
    find_few,
    least_values,
    list_spreads,
    measure_throughput,
    share_good,
    spread,
)
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.job import LoadPhase
from samples import make_result


def test_a_spread_is_that_of_its_values() -> None:
    values = list(np.random.default_rng(1).exponential(2.0, 500))
    one = spread(values, (50, 99))
    assert one is not None
    assert one.mean == pytest.approx(np.mean(values))
    assert one.deviation == pytest.approx(np.std(values, ddof=1))
    assert one.percentiles[99] == pytest.approx(np.percentile(values, 99))
    assert one.few == ()
    assert set(one.as_dict()) == {"count", "mean", "std", "p50", "p99"}
    assert spread([], (50,)) is None
    alone = spread([2.0], (50,))
    assert alone is not None
    assert alone.deviation is None
    assert alone.few == (50,)


def test_a_percentile_needs_a_value_beyond_it() -> None:
    assert [least_values(p) for p in (50, 90, 95, 99, 99.9, 5, 1)] == [2, 10, 20, 100, 1000, 20, 100]
    results = [make_result(repeat=i) for i in range(12)]
    few = find_few(list_spreads(results, (50, 90, 99)))
    assert few == "p99 of 12 values needs 100"
    assert find_few(list_spreads(results, (50,))) == ""


def test_gaps_of_all_requests_count_together() -> None:
    results = [make_result(token_times_s=(1.0, 1.1, 1.2)), make_result(token_times_s=(1.0, 1.4))]
    found = list_spreads(results, (50,))["itl_s"]
    assert found.count == 3
    assert found.mean == pytest.approx(0.2)


def test_throughput_is_over_the_time_from_the_first_start_to_the_last_end() -> None:
    results = [
        make_result(started_at="2026-01-01T00:00:00.000+00:00", e2e_s=3.0),
        make_result(started_at="2026-01-01T00:00:01.000+00:00", e2e_s=3.0, repeat=1),
        make_result(started_at="2025-01-01T00:00:01.000+00:00", repeat=2, phase=LoadPhase.WARMUP),
        make_result(started_at="2025-01-01T00:00:01.000+00:00", repeat=3, status=Status.CUT),
    ]
    found = measure_throughput(results, resumed=False)
    assert found == {
        "seconds": 4.0, "requests_per_s": 0.5, "output_tokens_per_s": 2.0, "tokens_per_s": 5002.0,
    }  # fmt: skip
    assert set(measure_throughput(results, resumed=True).values()) == {None}
    assert set(measure_throughput([], resumed=False).values()) == {None}


def test_goodput_counts_what_is_right_and_in_time() -> None:
    results = [
        make_result(ttft_s=1.0, tpot_s=0.1),
        make_result(ttft_s=3.0, tpot_s=0.1, repeat=1),
        make_result(ttft_s=1.0, tpot_s=0.3, repeat=2),
        make_result(ttft_s=1.0, tpot_s=None, repeat=3),
        make_result(ttft_s=1.0, tpot_s=0.1, repeat=4, status=Status.WRONG_ANSWER),
        make_result(ttft_s=9.0, repeat=5, phase=LoadPhase.COOLDOWN),
    ]
    found = share_good(results, {"ttft": 2.0, "tpot": 0.2})
    assert (found["good"], found["share"]) == (2, 0.4)
    assert share_good([], {"ttft": 1.0})["share"] is None
