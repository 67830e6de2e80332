"""A whole run with the engine watched: the series, the labels, the plan beside it, and a hang that ends it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from farspan.measurement import load
from farspan.measurement.analysis.breaches import judge_run
from farspan.measurement.analysis.plan_beside_run import compare_with_plan, find_plan
from farspan.measurement.analysis.point_values import parse_point_condition
from farspan.measurement.analysis.summary import summarise
from farspan.measurement.http.request_status import Status
from farspan.measurement.observe.engine_observer import EngineObserver
from farspan.measurement.options import BenchOptions
from farspan.measurement.run import run_bench
from farspan.measurement.runs.series import read_missed, read_series
from paced import Paced, serve_paced
from scripted import counting_prompt

METRICS = (
    'vllm:num_requests_running{{engine="0"}} {running}\n'
    'vllm:num_requests_waiting{{engine="0"}} {waiting}\n'
    'vllm:kv_cache_usage_perc{{engine="0"}} 0.5\n'
    'vllm:prompt_tokens_total{{engine="0"}} 7\n'
)


async def test_the_series_the_labels_and_the_plan_are_kept(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    ttft = {"expected": 0.1, "floor": 0.01}
    plan.write_bytes(orjson.dumps({"points": [{"context": 100, "engine": "vllm", "ttft_s": ttft}]}))
    paced = Paced(ttft_s=0.2, itl_s=0.005, metrics=METRICS.format(running=5, waiting=0), scraped_first=3)
    async with serve_paced(paced) as url:
        options = BenchOptions(
            url=url, run=tmp_path / "run", contexts=(100,), repeats=2, output_tokens=4, plan=plan
        )
        observer = EngineObserver(interval_s=0.02)
        outcome = await run_bench(options, make_prompt=counting_prompt, observers=[observer])
    for result in outcome.results:
        assert "the engine held 5 requests while we had sent 1" in result.evidence["co-running"]
    running = read_series(outcome.folder)["engine"]["running"]
    assert len(running) >= 6
    assert {reading.value for reading in running} == {5.0}
    stored = find_plan(outcome.folder, "vllm")
    assert stored is not None
    (point,) = compare_with_plan(outcome.results, stored)
    assert (point.expected, point.floor) == (0.1, 0.01)
    # The plan is half of what the server takes at least.
    assert point.measured is not None
    assert point.ratio == point.measured / 0.1 >= 1.99
    assert summarise(outcome)["plan"][0]["ratio"] == point.ratio
    slow = [parse_point_condition("ttft.p50 > 1.1 * plan")]
    assert len(judge_run(slow, outcome.folder, "vllm", outcome.results)) == 1
    kept = [parse_point_condition("ttft.p50 > 1000 * plan")]
    assert judge_run(kept, outcome.folder, "vllm", outcome.results) == ()


async def test_a_server_without_metrics_is_measured_all_the_same(tmp_path: Path) -> None:
    paced = Paced(ttft_s=0.05, itl_s=0.0, metrics_status=404)
    async with serve_paced(paced) as url:
        options = BenchOptions(url=url, run=tmp_path / "run", contexts=(100,), output_tokens=4)
        observer = EngineObserver(interval_s=0.01)
        outcome = await run_bench(options, make_prompt=counting_prompt, observers=[observer])
    assert outcome.results[0].ttft_s is not None
    assert "co-running" not in outcome.results[0].labels
    assert "HTTP 404" in read_missed(outcome.folder)["engine"][0]


async def test_a_hung_engine_ends_the_run_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The known case: a prompt larger than the KV pool waits for ever, and the engine is idle."""
    monkeypatch.setattr(load, "_HANG_CHECK_S", 0.05)
    paced = Paced(ttft_s=60, metrics=METRICS.format(running=0, waiting=1))
    async with serve_paced(paced) as url:
        options = BenchOptions(url=url, run=tmp_path / "run", contexts=(100,), repeats=3, output_tokens=4)
        observer = EngineObserver(interval_s=0.02, quiet_s=0.3)
        outcome = await run_bench(options, make_prompt=counting_prompt, observers=[observer])
    (result,) = outcome.results
    assert result.status is not Status.OK
    assert "hung" in result.labels
    assert "1 waiting, none running and nothing computed" in result.evidence["hung"]
    assert "hangs" in outcome.stopped
    assert outcome.unsent == 2
