from __future__ import annotations

import pytest

from farspan.measurement.analysis.load_curve import list_curve
from farspan.measurement.http.request_status import Status
from samples import make_result

BEGAN = "2026-01-01T00:00:00+00:00"
RESULTS = [
    make_result(concurrency=1, repeat=0, started_at="2026-01-01T00:00:01.000+00:00", e2e_s=2.0, ttft_s=1.0),
    make_result(concurrency=1, repeat=1, started_at="2026-01-01T00:00:03.000+00:00", e2e_s=2.0, ttft_s=1.5),
    *(
        make_result(
            concurrency=4,
            repeat=i,
            started_at="2026-01-01T00:01:00.000+00:00",
            e2e_s=4.0,
            ttft_s=2.0 + i,
            most_at_once=4,
        )
        for i in range(4)
    ),
]


def test_every_concurrency_has_its_throughput_and_latency() -> None:
    one, four = list_curve(RESULTS, starts=[BEGAN])
    assert (one.concurrency, four.concurrency) == (1, 4)
    assert one.requests_per_s == pytest.approx(0.5)
    assert four.requests_per_s == pytest.approx(1.0)
    assert one.latency["ttft"].percentiles[50] == 1.25
    assert four.latency["ttft"].percentiles[50] == 3.5
    assert (four.most_at_once, four.failed) == (4, 0)
    document = four.to_json()
    assert document["ttft_s"]["count"] == 4
    assert document["context"] == RESULTS[0].context


def test_throughput_over_two_starts_is_not_known() -> None:
    one, four = list_curve(RESULTS, starts=[BEGAN, "2026-01-01T00:00:02+00:00"])
    assert one.requests_per_s is None
    assert four.requests_per_s == pytest.approx(1.0), "all of it in the second start"


def test_failures_count_and_a_run_of_one_concurrency_has_no_curve() -> None:
    (point,) = list_curve([make_result(concurrency=2, status=Status.CUT)], starts=[BEGAN])
    assert point.failed == 1
    assert list_curve([make_result()], starts=[BEGAN]) == ()
