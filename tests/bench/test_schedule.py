from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farspan.bench.schedule import Job, plan_jobs


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
