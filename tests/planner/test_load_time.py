"""Times under load: a queue's arithmetic, the goals that searches keep to, and how answers show them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import farspan
from farspan.cli.main import group
from farspan.errors import InputError
from farspan.models.weights import rank_weight_bytes
from farspan.planner.answers import PlanAnswer, SearchAnswer
from farspan.planner.load_time import LoadEstimate, TimeGoals, estimate_load
from farspan.planner.roofline import active_weight_bytes
from farspan.sizes import parse_seconds

SCOUT = "llama-4-scout"


def loaded(concurrency: int, context: str = "128k") -> tuple[PlanAnswer, LoadEstimate]:
    answer = farspan.plan(SCOUT, gpus="8xH200", engine="vllm", context=context, concurrency=concurrency)
    assert isinstance(answer, PlanAnswer)
    load = estimate_load(answer.request, answer["vllm"])
    assert load is not None
    return answer, load


def test_one_request_is_one_request_alone() -> None:
    answer, load = loaded(1)
    time = answer["vllm"].time
    assert time is not None
    assert load.ttft_first_s == load.ttft_mean_s == load.ttft_last_s == time.ttft_expected_s
    assert load.itl_s == pytest.approx(time.itl_expected_s)


def test_prompts_follow_one_another() -> None:
    answer, load = loaded(8)
    alone = answer["vllm"].time
    assert alone is not None
    assert load.running == 8
    assert load.ttft_last_s == pytest.approx(8 * alone.ttft_expected_s)
    assert load.ttft_mean_s == pytest.approx(4.5 * alone.ttft_expected_s)
    assert load.itl_s > alone.itl_expected_s


def test_what_has_no_room_waits_for_the_first_batch_to_end() -> None:
    answer = farspan.plan(SCOUT, gpus="8xH200", engine="vllm", context="5M", concurrency=8)
    assert isinstance(answer, PlanAnswer)
    plan = answer["vllm"]
    load = estimate_load(answer.request, plan)
    assert load is not None
    assert plan.time is not None
    running = int(plan.max_concurrency)
    assert load.running == running < 8
    batch_s = running * plan.time.ttft_expected_s + 199 * load.itl_s
    assert load.ttft_last_s == pytest.approx(
        7 // running * batch_s + (7 % running + 1) * plan.time.ttft_expected_s
    )
    assert not answer.fits


@settings(max_examples=25)
@given(st.integers(1, 60))
def test_the_mean_is_that_of_every_request(concurrency: int) -> None:
    answer, load = loaded(concurrency, "2M")
    time = answer["vllm"].time
    assert time is not None
    batch_s = load.running * time.ttft_expected_s + 199 * load.itl_s
    firsts = [
        place // load.running * batch_s + (place % load.running + 1) * time.ttft_expected_s
        for place in range(concurrency)
    ]
    assert load.ttft_mean_s == pytest.approx(sum(firsts) / concurrency)
    assert (load.ttft_first_s, load.ttft_last_s) == pytest.approx((firsts[0], firsts[-1]))


def test_a_billion_requests_are_no_more_work_than_one() -> None:
    _, load = loaded(10**9)
    assert load.ttft_last_s > load.ttft_mean_s > load.ttft_first_s


@given(st.integers(1, 64), st.integers(1, 64))
def test_more_tokens_wake_no_fewer_weights(fewer: int, more: int) -> None:
    spec = farspan.load_model(SCOUT)
    fewer, more = sorted((fewer, more))
    assert active_weight_bytes(spec, 8, fewer) <= active_weight_bytes(spec, 8, more)
    assert active_weight_bytes(spec, 8, more) <= rank_weight_bytes(spec, 8).total


def test_a_dense_model_reads_all_its_weights_for_one_token() -> None:
    spec = farspan.load_model("qwen3-32b")
    assert active_weight_bytes(spec, 4, 1) == pytest.approx(active_weight_bytes(spec, 4, 64))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_search_keeps_to_the_times(engine: str) -> None:
    goals = TimeGoals(60.0, 0.05)
    answer = farspan.plan(
        SCOUT, gpus="8xH200", engine=engine, context="128k", find="concurrency", ttft="60s", itl="50ms"
    )
    assert isinstance(answer, SearchAnswer)
    ((request, (found,)),) = answer.found
    free = farspan.plan(SCOUT, gpus="8xH200", engine=engine, context="128k", find="concurrency")
    assert isinstance(free, SearchAnswer)
    assert 1 < found.value < free.found[0][1][0].value

    def meets(count: int) -> bool:
        tried = farspan.plan(SCOUT, gpus="8xH200", engine=engine, context="128k", concurrency=count)
        assert isinstance(tried, PlanAnswer)
        return tried.fits and goals.met_by(tried.request, tried[engine])

    assert meets(found.value)
    assert not meets(found.value + 1)
    assert request.context == 128_000


def test_a_plan_too_slow_for_the_times_says_so_and_exits_with_3() -> None:
    words = ["plan", SCOUT, "--gpus", "8xH200", "--engine", "vllm", "--context", "1M", "--concurrency", "4"]
    fast, slow = (CliRunner().invoke(group, [*words, "--ttft", goal]) for goal in ("10min", "60s"))
    assert (fast.exit_code, slow.exit_code) == (0, 3)
    assert "TOO SLOW for the times asked for: 4 sent at once" in slow.output
    assert "4 sent at once: first tokens after" in fast.output
    assert "assumed" in fast.output
    shown = json.loads(CliRunner().invoke(group, [*words, "--json"]).output)["engines"]["vllm"]["under_load"]
    assert shown["concurrency"] == shown["running"] == 4
    assert shown["ttft_first_s"] < shown["ttft_mean_s"] < shown["ttft_last_s"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("50ms", 0.05), ("60s", 60), ("2 min", 120), ("1.5", 1.5), ("1H", 3600)],
        *[("5m", 300), ("90 sec", 90), ("1h30m", 5400), ("1 h 02 min", 3720), ("2m30s", 150), (" 7 ", 7)],
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1s", "soon", "1 day", "1h30", "h", "0m", "1..5s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError, match="is not a duration"):
        parse_seconds(text)


def test_times_and_several_contexts_do_not_go_together() -> None:
    with pytest.raises(InputError, match="--find context"):
        farspan.plan(SCOUT, gpus="8xH200", contexts="1M,2M", ttft="60s")
