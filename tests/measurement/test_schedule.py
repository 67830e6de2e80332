from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.measurement.lengths import parse_lengths
from farspan.measurement.runs.job import Job, LoadPhase
from farspan.measurement.schedule import plan_arrivals, plan_jobs


@given(
    contexts=st.lists(st.integers(1, 10**7), min_size=1, max_size=5),
    depths=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    repeats=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_every_round_has_every_point_once(
    contexts: list[int], depths: list[float], repeats: int, seed: int
) -> None:
    jobs = plan_jobs(contexts=contexts, depths=depths, repeats=repeats, seed=seed, output_tokens=8)
    points = {(context, depth) for context in contexts for depth in depths}
    assert len(jobs) == len(set(jobs)) == repeats * len(points)
    for repeat in range(repeats):
        part = jobs[repeat * len(points) : (repeat + 1) * len(points)]
        assert {(job.context, job.depth) for job in part} == points
        assert {job.repeat for job in part} == {repeat}
    assert jobs == plan_jobs(contexts=contexts, depths=depths, repeats=repeats, seed=seed, output_tokens=8)
    assert len({job.prompt_seed for job in jobs}) == len(jobs)


def test_the_order_depends_on_the_seed_unless_asked_otherwise() -> None:
    contexts = tuple(range(1, 40))
    orders = {
        tuple(
            job.context
            for job in plan_jobs(contexts=contexts, depths=[0.5], repeats=1, seed=s, output_tokens=1)
        )
        for s in range(5)
    }
    assert len(orders) == 5
    kept = plan_jobs(contexts=contexts, depths=[0.5], repeats=1, seed=3, output_tokens=1, in_order=True)
    assert tuple(job.context for job in kept) == contexts


def test_a_prompt_does_not_depend_on_what_else_is_run() -> None:
    # Written into run folders: it may never change.
    assert Job(10_000, 0.5, 0, 7, 16).prompt_seed == 6249699754023732905
    assert 0 <= Job(1, 0.0, 0, 0, 1).prompt_seed < 2**63


def test_requests_around_the_measured_ones_have_prompts_of_their_own() -> None:
    jobs = plan_jobs(
        contexts=[10, 20], depths=[0.5], repeats=2, seed=1, output_tokens=4, warmup=3, cooldown=2
    )
    phases = [job.phase for job in jobs]
    assert phases == [LoadPhase.WARMUP] * 3 + [LoadPhase.MEASURED] * 4 + [LoadPhase.COOLDOWN] * 2
    assert len({job.prompt_seed for job in jobs}) == len(set(jobs)) == 9
    assert [job.context for job in jobs[:3]] == [10, 20, 10]


def test_a_number_of_requests_takes_the_place_of_rounds() -> None:
    jobs = plan_jobs(contexts=[10, 20], depths=[0.1, 0.9], repeats=9, seed=1, output_tokens=4, requests=6)
    assert len(jobs) == len(set(jobs)) == 6
    assert len({(job.context, job.depth) for job in jobs[:4]}) == 4


def test_lengths_may_be_drawn() -> None:
    lengths = parse_lengths("weights:100=1,200=1")
    jobs = plan_jobs(lengths=lengths, depths=[0.1, 0.9], repeats=1, seed=1, output_tokens=4, requests=50)
    assert len(jobs) == len(set(jobs)) == len({job.prompt_seed for job in jobs}) == 50
    assert {job.context for job in jobs} == {100, 200}
    assert {job.depth for job in jobs} == {0.1, 0.9}
    fewer = plan_jobs(lengths=lengths, depths=[0.1, 0.9], repeats=1, seed=1, output_tokens=4, requests=20)
    assert jobs[:20] == fewer


def test_arrivals_have_the_rate_and_the_burstiness_asked_for() -> None:
    even = plan_arrivals(5, rate=2.0, burstiness=math.inf, seed=1)
    assert even == (0.0, 0.5, 1.0, 1.5, 2.0)
    for burstiness in (0.25, 1.0, 4.0):
        gaps = np.diff(plan_arrivals(20_000, rate=50.0, burstiness=burstiness, seed=3))
        assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
        # A gamma distribution of shape k has a coefficient of variation of 1/sqrt(k).
        assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.06)
    assert plan_arrivals(5, rate=1, burstiness=1, seed=1) != plan_arrivals(5, rate=1, burstiness=1, seed=2)


def test_a_sweep_goes_through_one_context_at_one_concurrency_after_another() -> None:
    jobs = plan_jobs(
        contexts=(1000, 2000), depths=(0.1, 0.9), repeats=2, seed=3, output_tokens=4, concurrencies=(1, 8),
        warmup=1, cooldown=2,
    )  # fmt: skip
    measured = [job for job in jobs if job.phase is LoadPhase.MEASURED]
    blocks = list(dict.fromkeys((job.concurrency, job.context) for job in measured))
    assert blocks == [(1, 1000), (1, 2000), (8, 1000), (8, 2000)]
    assert [len([job for job in measured if (job.concurrency, job.context) == b]) for b in blocks] == [
        4,
        4,
        8,
        8,
    ]
    assert [job.phase for job in (jobs[0], *jobs[-2:])] == [LoadPhase.WARMUP] + [LoadPhase.COOLDOWN] * 2
    assert len({job.prompt_seed for job in jobs}) == len(set(jobs)) == len(jobs), "no prompt is sent twice"
    drawn = plan_jobs(
        lengths=parse_lengths("uniform:1k,2k"), depths=(0.5,), repeats=1, requests=5, seed=3, output_tokens=4,
        concurrencies=(2, 4),
    )  # fmt: skip
    assert [job.concurrency for job in drawn] == [2] * 5 + [4] * 5
