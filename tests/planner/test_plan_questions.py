"""The questions, on every engine: answers agree with each other, and what cannot be served is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.models.spec import KvDtype
from farspan.planner.levers import cheapest_fix, levers
from farspan.planner.plan import ENGINES, engine_planner, plan_engine, plan_engines
from farspan.planner.questions import (
    Question,
    fewest_gpus,
    largest_concurrency,
    largest_context,
    search,
)
from farspan.planner.request import PlanRequest
from farspan.planner.sweep import sweep

SCOUT = load_model("llama-4-scout")
EIGHT = load_model("llama-3.1-8b")


def request(
    context: int = 1_000_000,
    *,
    gpus: int = 8,
    gpu: str = "H200",
    concurrency: int = 1,
    kv_dtype: KvDtype = KvDtype.AUTO,
    version: str = "",
    flags: Mapping[str, str | None] | None = None,
) -> PlanRequest:
    return PlanRequest(
        model=SCOUT,
        gpu=find_gpu(gpu),
        gpus=gpus,
        tp=gpus,
        context=context,
        concurrency=concurrency,
        kv_dtype=kv_dtype,
        engine_version=version,
        engine_flags=flags or {},
    )


def fair(engine: str, context: int, concurrency: int = 1) -> PlanRequest:
    """A request the engine can be asked for: Scout on 8x H100, or for the built-in engine 8B on one H100."""
    asked = request(context, gpu="H100", concurrency=concurrency)
    return replace(asked, model=EIGHT, gpus=1, tp=1) if engine == "builtin" else asked


@pytest.mark.parametrize("engine", ENGINES)
def test_a_short_context_fits_everywhere(engine: str) -> None:
    plan = plan_engine(fair(engine, 100_000), engine)
    assert plan.fits
    assert plan.starts
    assert plan.capacity_tokens >= 100_000
    assert plan.max_concurrency >= 1
    assert plan.ledger.free_bytes >= 0
    assert plan.weights_bytes > 14 * 2**30
    assert plan.time is not None
    assert plan.time.ttft_floor_s <= plan.time.ttft_expected_s


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_largest_context_fits_and_one_more_token_does_not(engine: str, concurrency: int) -> None:
    asked = fair(engine, 1_000, concurrency)
    longest = largest_context(asked, engine)
    assert 10_000 < longest <= asked.model.max_position_embeddings
    assert plan_engine(replace(asked, context=longest), engine).fits
    if longest < asked.model.max_position_embeddings:
        assert not plan_engine(replace(asked, context=longest + 1), engine).fits


@pytest.mark.parametrize("engine", ENGINES)
def test_more_at_once_means_shorter_contexts(engine: str) -> None:
    lengths = [largest_context(fair(engine, 1_000, count), engine) for count in (1, 2, 4, 8)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_largest_concurrency_fits_and_one_more_does_not(engine: str) -> None:
    asked = fair(engine, 100_000)
    count = largest_concurrency(asked, engine)
    assert count >= 1
    assert plan_engine(replace(asked, concurrency=count), engine).fits
    assert not plan_engine(replace(asked, concurrency=count + 1), engine).fits


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_fewest_gpus_do_and_fewer_do_not(engine: str) -> None:
    asked = request(128_000)
    fewest = fewest_gpus(asked, engine)
    assert fewest in (2, 4)
    smaller = replace(asked, gpus=fewest // 2, tp=fewest // 2)
    # Half the GPUs either hold the weights without enough room beside them, or not even those.
    assert not next(sweep(smaller, [smaller.context], [engine])).fits


def test_the_fewest_gpus_of_an_impossible_wish_is_none() -> None:
    assert fewest_gpus(replace(request(128_000), concurrency=10**6), "vllm") == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tp": 16}, "tensor parallel 16 needs 16 GPUs and there are 8"),
        ({"tp": 3}, "tensor parallel 3 does not divide the 40 attention heads"),
        ({"tp": 0}, "--tp 0 is not positive"),
        ({"concurrency": 0}, "--concurrency 0 is not positive"),
        ({"context": 10_485_761}, "above the 10Mi tokens"),
        ({"tp": 1}, r"take 20\d GiB on each of 1 GPU, and a H200 has 140 GiB; use --tp 2"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_nobody_could_serve_is_refused(engine: str, changed: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_engine(replace(request(), **changed), engine)  # type: ignore[arg-type]


def test_an_engine_that_is_not_known() -> None:
    with pytest.raises(InputError, match="choose one of vllm, sglang, builtin"):
        engine_planner("tgi")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_unknown_version_says_which_are_known(engine: str) -> None:
    with pytest.raises(InputError, match=r"it knows .*--accept-nearest-version to plan with"):
        plan_engine(request(version="0.5.999" if engine == "sglang" else "0.999.0"), engine)
    accepted = replace(
        request(version="0.5.999" if engine == "sglang" else "0.999.0"), accept_nearest_version=True
    )
    plan = plan_engine(accepted, engine)
    assert any("is not known: planned as" in warning for warning in plan.warnings)


def test_engines_side_by_side_survive_one_refusal() -> None:
    plans, refusals = plan_engines(request(128_000))
    assert [plan.engine for plan in plans] == ["vllm", "sglang"]
    assert refusals.keys() == {"builtin"}
    assert "one GPU" in refusals["builtin"]
    with pytest.raises(InputError, match="one GPU"):
        plan_engines(request(128_000), ["builtin"])


def test_sglang_at_ten_million_needs_fewer_rows_not_a_smaller_fraction() -> None:
    asked = request(10_000_000, kv_dtype=KvDtype.FP8_E4M3)
    for fraction in ("0.80", "0.75", "0.70", "0.65"):
        plan = plan_engine(replace(asked, engine_flags={"--mem-fraction-static": fraction}), "sglang")
        assert not plan.starts
    asked = replace(asked, engine_flags={"--mem-fraction-static": "0.65", "--disable-cuda-graph": None})
    plan = plan_engine(asked, "sglang")
    assert not plan.fits
    found = levers(asked, plan)
    assert found[0].change == "--max-running-requests 8"
    # 2040 of 2048 rows of 10,000,004 or more int32.
    assert found[0].bytes_freed >= 2040 * 10_000_004 * 4
    fix = cheapest_fix(asked, plan)
    assert fix[0].change == "--max-running-requests 8"
    assert fix[-1].fits
    assert plan_engine(fix[-1].request, "sglang").fits


def test_levers_are_replanned_and_ordered_by_cost() -> None:
    asked = request(5_242_880, version="0.12.0", flags={"--disable-hybrid-kv-cache-manager": None})
    plan = plan_engine(asked, "vllm")
    assert not plan.fits
    found = levers(asked, plan)
    changes = [lever.change for lever in found]
    assert changes[0].startswith("leave hybrid KV groups on")
    assert found[0].fits
    assert any("fp8_e4m3" in change for change in changes)
    for lever in found:
        again = plan_engine(lever.request, "vllm")
        assert again.fits == lever.fits
        assert again.capacity_tokens == lever.capacity_tokens
    assert cheapest_fix(asked, plan) == (found[0],) or cheapest_fix(asked, plan)[0].change == changes[0]


def test_a_sweep_goes_on_after_a_refusal() -> None:
    small = replace(request(), model=EIGHT, gpus=1, tp=1)
    points = list(sweep(small, [8_000, 131_072, 131_073], ENGINES))
    assert len(points) == 3 * len(ENGINES)
    assert all(point.fits for point in points if point.context == 8_000)
    for point in points:
        if point.context > 131_072:
            assert not point.fits
            assert "made for" in point.refusal


@pytest.mark.parametrize("question", Question)
def test_search_answers_for_every_engine(question: Question) -> None:
    found = search(fair("builtin", 100_000), question, ENGINES)
    assert [answer.engine for answer in found] == list(ENGINES)
    for answer in found:
        assert answer.value > 0
        assert answer.plan is not None
        assert answer.plan.fits
