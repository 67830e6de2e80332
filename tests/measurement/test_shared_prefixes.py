"""Groups of requests that share a prefix: which are sent, in which order, what of them is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.measurement.analysis.labels import Surroundings, find_labels
from farspan.measurement.analysis.summary import list_points, list_shared, summarise
from farspan.measurement.http.client import Exchange
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.wire import Usage
from farspan.measurement.options import BenchOptions
from farspan.measurement.resume import read_last_options
from farspan.measurement.run import choose_jobs, run_bench
from farspan.measurement.runs.job import Job
from farspan.measurement.schedule import plan_jobs
from farspan.measurement.shared_length import parse_shared_length
from farspan.verbs.bench import bench_options
from scripted import Script, ScriptedServer, counting_prompt


@given(
    contexts=st.lists(st.integers(10, 10**7), min_size=1, max_size=4, unique=True),
    depths=st.lists(st.floats(0, 1), min_size=1, max_size=3, unique=True),
    repeats=st.integers(1, 3),
    size=st.integers(2, 6),
    percent=st.integers(10, 90),
    seed=st.integers(0, 2**31),
)
def test_groups_stay_together(
    contexts: list[int], depths: list[float], repeats: int, size: int, percent: int, seed: int
) -> None:
    jobs = plan_jobs(
        contexts=contexts,
        depths=depths,
        repeats=repeats,
        seed=seed,
        output_tokens=8,
        shared=parse_shared_length(f"{percent}%"),
        group_size=size,
    )
    assert len(jobs) == len(set(jobs)) == len(contexts) * len(depths) * repeats * size
    assert len({job.prompt_seed for job in jobs}) == len(jobs)
    groups = [jobs[i : i + size] for i in range(0, len(jobs), size)]
    assert len({group[0] for group in groups}) == len(groups)
    for group in groups:
        assert [job.member for job in group] == list(range(size))
        assert {job.group for job in group} == {group[0]}
        assert len({job.group_seed for job in group}) == 1
        shared = round(percent / 100 * group[0].context)
        assert [job.expected_cached_tokens for job in group] == [0, *[shared] * (size - 1)]


def test_how_much_is_shared_is_read() -> None:
    assert parse_shared_length("90%").of(1000) == 900
    assert parse_shared_length(" 1k ").of(10_000) == 1000
    assert parse_shared_length("12.5%").of(1000) == 125
    for wrong in ("0%", "100%", "x%", "%", "-5%", "nan%", "ten", ""):
        with pytest.raises(InputError):
            parse_shared_length(wrong)
    for text, context in (("1k", 1000), ("1%", 10)):
        with pytest.raises(InputError, match="share some tokens"):
            parse_shared_length(text).of(context)


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 1.0},
        {"concurrency": "1,4"},
        {"group_size": 1},
        {"group_size": 0},
        {"contexts": None, "lengths": "uniform:100,200"},
        {"contexts": [100, 50], "shared_prefix": "60"},
        {"shared_prefix": None, "group_size": 4},
    ],
)
def test_what_does_not_go_with_it_is_refused(changes: dict[str, Any]) -> None:
    given = {"contexts": [100], "shared_prefix": "90%"} | changes
    with pytest.raises(InputError):
        bench_options("http://localhost:1", **given).check()


def test_a_group_has_enough_to_keep_the_server_busy() -> None:
    assert bench_options("x", contexts=[9], shared_prefix="50%").requests_in_group == 4
    assert bench_options("x", contexts=[9], shared_prefix="50%", concurrency=16).requests_in_group == 17
    assert bench_options("x", contexts=[9], shared_prefix="50%", group_size=3).requests_in_group == 3


def label(cached: int | None, *, shared: int = 9000, member: int = 1) -> set[str]:
    job = Job(10_000, 0.5, 0, 1, 1, shared_tokens=shared, member=member)
    exchange = Exchange(
        status=Status.OK,
        error="",
        http_status=200,
        started_at=0.0,
        body_bytes=1,
        bytes_sent_s=0.0,
        ended_s=0.1,
        text="x",
        streamed=True,
        usage=Usage(prompt_tokens=10_000, cached_tokens=cached, output_tokens=1),
        token_times_s=(0.1,),
        finish_reason="length",
    )
    return set(find_labels(job, exchange, Surroundings()))


def test_what_was_cached_is_compared_with_what_is_meant_to_be() -> None:
    assert label(9000) == label(8992) == label(8200) == set()
    assert label(9015) == set()
    assert label(9016) == {"warm"}
    assert label(8000) == label(16) == label(0) == {"cache-missed"}
    assert label(None) == {"cached-unknown"}
    assert label(0, member=0) == set()
    assert label(9000, member=0) == {"warm"}
    # Less than a page of some engines: nothing of it may be cached at all, but that is said.
    assert label(0, shared=200) == {"cache-missed"}
    assert label(64, shared=200) == set()


def options(server: ScriptedServer, folder: Path, **changes: Any) -> BenchOptions:
    given = {"contexts": [1000], "shared_prefix": "90%", "output_tokens": 4, "seed": 7} | changes
    return bench_options(server.url, run=folder / "run", **given)


async def test_cold_and_warm_are_told_apart(server: ScriptedServer, tmp_path: Path) -> None:
    cached = [0, 896, 896, 0, 0, 896, 896, 990]
    server.scripts = [
        Script(cached_tokens=count, ttft_s=0.02 if count == 896 else 0.2 if count == 0 else 0.0)
        for count in cached
    ]
    outcome = await run_bench(options(server, tmp_path, repeats=2), make_prompt=counting_prompt)
    assert [result.expected_cached_tokens for result in outcome.results] == [0, 900, 900, 900] * 2
    assert ["cache-missed" in r.labels for r in outcome.results] == [False] * 3 + [True] + [False] * 4
    assert ["warm" in r.labels for r in outcome.results] == [False] * 7 + [True]
    assert all(result.prefill_tokens_per_s is None for result in outcome.results if result.member)
    cold, warm = list_points(outcome.results)
    assert (cold.expected_cached_tokens, cold.requests, cold.trusted, cold.labels) == (0, 2, 2, ())
    assert (warm.expected_cached_tokens, warm.requests, warm.trusted) == (900, 6, 4)
    (point,) = list_shared(outcome.results)
    assert (point.shared_tokens, point.cached_tokens, point.cold, point.warm) == (900, 896, 2, 4)
    assert point.missed == 1
    assert point.cold_ttft_s is not None
    assert point.cold_ttft_s >= 0.2 > 0.1 > (point.warm_ttft_s or 1)
    document = summarise(outcome)
    assert document["shared_prefixes"][0]["ratio"] == point.ratio
    assert document["requests"][1]["expected_cached_tokens"] == 900
    again, _ = read_last_options(outcome.folder)
    assert again.plan_jobs(7) == options(server, tmp_path, repeats=2).plan_jobs(7)


async def test_the_first_of_a_group_is_alone(server: ScriptedServer, tmp_path: Path) -> None:
    server.script = Script(ttft_s=0.01)
    wanted = options(server, tmp_path, repeats=2, concurrency=4)
    outcome = await run_bench(wanted, make_prompt=counting_prompt)
    firsts = [result for result in outcome.results if result.member == 0]
    assert len(outcome.results) == 10
    assert [result.most_at_once for result in firsts] == [1, 1]
    assert max(result.most_at_once for result in outcome.results) == 4


async def test_a_group_goes_again_whole_and_with_another_prefix(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.scripts = [Script(), Script(), Script(status=500)]
    made: list[Job] = []

    def make(job: Job) -> Any:
        made.append(job)
        return counting_prompt(job)

    outcome = await run_bench(options(server, tmp_path, repeats=2), make_prompt=make)
    assert len(outcome.failed) == 1
    wanted = options(server, tmp_path, repeats=2, resume=True, retry_failed=True)
    jobs = wanted.plan_jobs(7)
    assert choose_jobs(jobs, outcome.results, retry_failed=False) == ()
    assert choose_jobs(jobs, outcome.results[:5], retry_failed=False) == jobs[4:]
    outcome = await run_bench(wanted, make_prompt=make)
    assert outcome.good
    first, again = made[:4], made[8:]
    assert len(again) == 4
    assert [job.member for job in again] == [0, 1, 2, 3]
    assert len({job.group_seed for job in again}) == 1
    assert again[0].group_seed != first[0].group_seed
