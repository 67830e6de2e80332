"""The engine's own time to first token: of one request between two readings, or a mean over several."""

from __future__ import annotations

from pathlib import Path

import pytest

import farspan
from builtin_server import address, start
from farspan.engines.metric_source import Measure
from farspan.measurement.analysis.labels import Surroundings, find_around, find_held
from farspan.measurement.observe.engine_times import find_engine_times
from farspan.measurement.observe.scrape import Sample
from farspan.measurement.runs.engine_ttft import EngineTimes, find_engine_ttft
from farspan.measurement.runs.series import Reading
from samples import make_exchange, make_result


def sample(
    time: float, count: float, seconds: float, decode: float | None = None, took: float = 0.1
) -> Sample:
    values = {Measure.FIRST_TOKENS: count, Measure.FIRST_TOKEN_SECONDS: seconds}
    return Sample(time, values if decode is None else values | {Measure.DECODE_SECONDS: decode}, took)


BEFORE = sample(9.0, 4, 20.0, 3.0)


def test_the_difference_between_two_readings_is_the_request_between_them() -> None:
    samples = [BEFORE, sample(11.0, 4, 20.0, 3.0), sample(13.0, 5, 21.5, 3.25), sample(30.0, 9, 99.0, 9.0)]
    assert find_engine_times(samples, 10.0, 12.5) == EngineTimes(1.5, 0.25)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([BEFORE, sample(13.0, 6, 25.0)], "another request got its first token meanwhile"),
        ([BEFORE, sample(13.0, 4, 20.0)], "none did: it failed, or the metrics are behind"),
        ([BEFORE, sample(13.0, 1, 1.0)], "the server was started anew"),
        ([BEFORE, sample(12.55, 5, 21.0)], "this reading began before the request was over"),
        ([sample(10.5, 4, 20.0), sample(13.0, 5, 21.0)], "nothing was read before it left"),
        ([BEFORE], "nor after it"),
        ([Sample(9.0, {}), Sample(13.0, {})], "the engine does not tell"),
    ],
)
def test_anything_else_is_not_known(samples: list[Sample], why: str) -> None:
    assert find_engine_times(samples, 10.0, 12.5) is None, why


def test_an_engine_that_times_no_decoding_has_its_first_token() -> None:
    assert find_engine_times([sample(9.0, 4, 20.0), sample(13.0, 5, 21.0)], 10.0, 12.5) == EngineTimes(
        1.0, None
    )


def test_a_first_token_that_was_held_back_is_said_with_by_how_much() -> None:
    times = (2.0, 2.01)
    assert find_held(times, EngineTimes(1.7, 0.31)) == pytest.approx(0.30)
    assert find_held(times, EngineTimes(1.7, 0.005)) == 0
    assert find_held(times, EngineTimes(1.7)) is None
    assert find_held((), EngineTimes(1.7, 0.3)) is None
    exchange = make_exchange(token_times_s=times)
    labels = find_around(exchange, Surroundings(engine=EngineTimes(1.7, 0.31)))
    assert list(labels) == ["first-token-held"]
    assert (
        "took 310.0 ms from its first token to its last, and they came within 10.0 ms"
        in labels["first-token-held"]
    )
    assert "TTFT is about 300.0 ms too long" in labels["first-token-held"]
    assert find_around(exchange, Surroundings(engine=EngineTimes(1.7, 0.025))) == {}, "too little to matter"
    assert find_around(exchange, Surroundings(engine=EngineTimes(1.7))) == {}


def readings(*values: tuple[float, float, float]) -> dict[str, list[Reading]]:
    return {
        "first_tokens": [Reading(time, count) for time, count, _ in values],
        "first_token_seconds": [Reading(time, seconds) for time, _, seconds in values],
    }


def test_a_mean_is_over_the_same_requests_or_says_that_it_is_not() -> None:
    results = [
        make_result(started_at="1970-01-01T00:00:10+00:00", repeat=i, ttft_s=2.0 + i, e2e_s=4.0)
        for i in range(2)
    ]
    found = find_engine_ttft(readings((9.0, 3, 30.0), (12.0, 3, 30.0), (14.5, 5, 34.0)), results)
    assert found is not None
    assert (found.requests, found.mean_s, found.client_mean_s, found.late_s) == (2, 2.0, 2.5, 0.5)
    strange = find_engine_ttft(readings((9.0, 3, 30.0), (14.5, 7, 40.0)), results)
    assert strange is not None
    assert (strange.requests, strange.mean_s, strange.client_mean_s, strange.late_s) == (4, 2.5, None, None)
    for unknown in (
        readings((9.0, 3, 30.0)),
        readings((11.0, 3, 30.0), (14.5, 5, 34.0)),
        readings((9.0, 3, 30.0), (14.5, 3, 30.0)),
        readings((9.0, 3, 30.0), (14.5, 1, 5.0)),
        {},
    ):
        assert find_engine_ttft(unknown, results) is None
    assert find_engine_ttft(readings((9.0, 3, 30.0), (14.5, 5, 34.0)), []) is None


def test_the_builtin_engine_tells_it_of_every_request_and_of_several_at_once(tmp_path: Path) -> None:
    folder = farspan.probe(tmp_path / "recall", heads=2, kv_heads=2).folder
    process = start(folder)
    try:
        url = address(process)
        alone = farspan.bench(url, contexts=["2k", "5k"], repeats=2, run=tmp_path / "alone").to_json()
        together = farspan.bench(url, contexts=["2k"], concurrency="1,3", run=tmp_path / "together").to_json()
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert len(alone["requests"]) == 4
    for request in alone["requests"]:
        assert 0 < request["engine_ttft_s"] <= request["ttft_s"]
        assert request["stream_late_s"] == request["ttft_s"] - request["engine_ttft_s"]
        assert request["first_token_held_s"] is None, "it does not time its decoding"
    for point in alone["points"]:
        assert 0 < point["engine_ttft_s"] <= point["ttft_s"]
    assert alone["engine_ttft"]["requests"] == 4
    assert alone["engine_ttft"]["late_s"] > 0
    several = [request for request in together["requests"] if request["concurrency"] == 3]
    assert [request["engine_ttft_s"] for request in several] == [None] * 3
    one, three = together["curve"]
    assert (one["engine_ttft"]["requests"], three["engine_ttft"]["requests"]) == (1, 3)
    assert three["engine_ttft"]["late_s"] > 0
