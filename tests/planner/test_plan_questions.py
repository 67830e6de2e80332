"""The questions, on every engine: answers agree with each other, and what cannot be served is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from farspan.engines.engine import Engine
from farspan.engines.registry import all_engines, get_engine
from farspan.engines.vllm.flags import CHUNKED_HYBRID_ENV
from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.models.spec import KvDtype
from farspan.planner.levers import cheapest_fix, find_fix, levers
from farspan.planner.plan import plan_engine, plan_engines
from farspan.planner.questions import (
    NO_FLEET,
    Question,
    fewest_gpus,
    largest_concurrency,
    largest_context,
    search,
)
from farspan.planner.request import PlanRequest
from farspan.planner.sweep import sweep
from farspan.sizes import GIB

VLLM, SGLANG, BUILTIN = ENGINES = all_engines()
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


def fair(engine: Engine, context: int, concurrency: int = 1) -> PlanRequest:
    """A request the engine can be asked for: Scout on 8x H100, or for the built-in engine 8B on one H100."""
    asked = request(context, gpu="H100", concurrency=concurrency)
    return replace(asked, model=EIGHT, gpus=1, tp=1) if engine is BUILTIN else asked


@pytest.mark.parametrize("engine", ENGINES)
def test_a_short_context_fits_everywhere(engine: Engine) -> None:
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
def test_the_largest_context_fits_and_one_more_token_does_not(engine: Engine, concurrency: int) -> None:
    asked = fair(engine, 1_000, concurrency)
    longest = largest_context(asked, engine)
    assert 10_000 < longest <= asked.model.max_position_embeddings
    assert plan_engine(replace(asked, context=longest), engine).fits
    if longest < asked.model.max_position_embeddings:
        assert not plan_engine(replace(asked, context=longest + 1), engine).fits


@pytest.mark.parametrize("engine", ENGINES)
def test_more_at_once_means_shorter_contexts(engine: Engine) -> None:
    lengths = [largest_context(fair(engine, 1_000, count), engine) for count in (1, 2, 4, 8)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_largest_concurrency_fits_and_one_more_does_not(engine: Engine) -> None:
    asked = fair(engine, 100_000)
    count = largest_concurrency(asked, engine)
    assert count >= 1
    assert plan_engine(replace(asked, concurrency=count), engine).fits
    assert not plan_engine(replace(asked, concurrency=count + 1), engine).fits


@pytest.mark.parametrize("engine", [VLLM, SGLANG])
def test_the_fewest_gpus_do_and_fewer_do_not(engine: Engine) -> None:
    asked = request(128_000)
    fewest = fewest_gpus(asked, engine)
    assert fewest.gpus in (2, 4)
    assert (fewest.tp, fewest.servers) == (fewest.gpus, 1)
    smaller = replace(asked, gpus=fewest.gpus // 2, tp=fewest.tp // 2)
    # Half the GPUs either hold the weights without enough room beside them, or not even those.
    assert not next(sweep(smaller, [smaller.context], [engine])).fits


def test_attention_groups_that_share_the_experts_are_searched() -> None:
    # 64 requests of 128k: latents are copied on every tensor-parallel rank, and shared out over attention groups.
    asked = replace(
        request(128_000, concurrency=64), model=load_model("deepseek-v3"), engine_version="0.5.23"
    )
    fewest = fewest_gpus(asked, SGLANG)
    assert (fewest.gpus, fewest.servers) == (16, 1)
    assert fewest.groups > 1
    (answer,) = search(asked, Question.GPUS, [SGLANG])
    assert answer.value == 16
    assert answer.plan is not None
    assert answer.plan.fits
    assert "--enable-dp-attention" in answer.plan.flags
    # Whoever gives the groups by hand is taken at their word.
    by_hand = asked.with_flags({"--dp-size": "2", "--enable-dp-attention": None})
    assert fewest_gpus(by_hand, SGLANG).groups == 1
    dense = replace(asked, model=EIGHT)
    assert SGLANG.grouped(dense, 2, 2) is None
    assert VLLM.grouped(dense, 2, 2) is None
    assert BUILTIN.grouped(asked, 1, 2) is None


def test_engines_of_one_rank_that_share_experts_start() -> None:
    grouped = VLLM.grouped(replace(request(128_000), model=load_model("deepseek-v3")), 1, 16)
    assert grouped is not None
    plan = plan_engine(grouped, VLLM)
    # The whole model is 627 GiB; a rank holds its share of the experts and all the rest.
    assert plan.starts
    assert 50 * GIB < plan.weights_bytes < 65 * GIB
    # What others hold cannot be offloaded here.
    offloading = grouped.with_flags({**grouped.engine_flags, "--cpu-offload-gb": "500"})
    assert plan_engine(offloading, VLLM).weights_bytes >= 0


def test_the_fewest_gpus_of_an_impossible_wish_is_none() -> None:
    assert fewest_gpus(replace(request(128_000), concurrency=10**6), VLLM) == NO_FLEET


@pytest.mark.parametrize("engine", [VLLM, SGLANG])
def test_several_servers_where_one_cannot_hold_all_requests(engine: Engine) -> None:
    fewest = fewest_gpus(request(10_000_000, concurrency=4), engine)
    assert fewest.gpus == fewest.tp * fewest.servers
    assert fewest.servers > 1
    one = replace(request(10_000_000), gpus=fewest.tp, tp=fewest.tp)
    held = largest_concurrency(one, engine)
    assert fewest.servers == -(-4 // held)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tp": 16}, "tensor parallel 16 needs 16 GPUs and there are 8"),
        ({"tp": 3}, "tensor parallel 3 does not divide the 40 attention heads"),
        ({"tp": 0}, "--tp 0 is not positive"),
        ({"concurrency": 0}, "--concurrency 0 is not positive"),
        ({"context": 10_485_761}, "above the 10Mi tokens"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_nobody_could_serve_is_refused(engine: Engine, changed: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_engine(replace(request(), **changed), engine)  # type: ignore[arg-type]


def test_an_engine_that_is_not_known() -> None:
    with pytest.raises(InputError, match="choose one of vllm, sglang, builtin"):
        get_engine("tgi")


def test_a_newer_version_is_planned_by_the_newest_rules_and_said() -> None:
    plan = plan_engine(request(version="0.999.0"), VLLM)
    assert "vllm 0.999.0 is not known: planned as 0.33.0" in plan.warnings
    plan = plan_engine(request(version="0.5.999"), SGLANG)
    assert any("sglang 0.5.999 is not known: planned as 0.5.23" in warning for warning in plan.warnings)


def test_engines_side_by_side_survive_one_refusal() -> None:
    plans, refusals = plan_engines(request(128_000), ENGINES)
    assert [plan.engine for plan in plans] == ["vllm", "sglang"]
    assert refusals.keys() == {"builtin"}
    assert "one GPU" in refusals["builtin"]
    with pytest.raises(InputError, match="one GPU"):
        plan_engines(request(128_000), [BUILTIN])


def test_sglang_at_ten_million_needs_fewer_rows_not_a_smaller_fraction() -> None:
    asked = replace(request(10_000_000, kv_dtype=KvDtype.FP8_E4M3), as_given=True)
    for fraction in ("0.80", "0.75", "0.70", "0.65"):
        plan = plan_engine(replace(asked, engine_flags={"--mem-fraction-static": fraction}), SGLANG)
        assert not plan.starts
    asked = replace(asked, engine_flags={"--mem-fraction-static": "0.65", "--disable-cuda-graph": None})
    plan = plan_engine(asked, SGLANG)
    assert not plan.fits
    found = levers(asked, plan, SGLANG)
    assert found[0].change == "--max-running-requests 8"
    # 2040 of 2048 rows of 10,000,004 or more int32.
    assert found[0].bytes_freed >= 2040 * 10_000_004 * 4
    fix = cheapest_fix(asked, plan, SGLANG)
    assert fix[0].change == "--max-running-requests 8"
    assert fix[-1].fits
    assert plan_engine(fix[-1].request, SGLANG).fits


def test_levers_are_replanned_and_ordered_by_cost() -> None:
    asked = request(5_242_880, version="0.12.0", flags={"--disable-hybrid-kv-cache-manager": None})
    plan = plan_engine(asked, VLLM)
    assert not plan.fits
    found = levers(asked, plan, VLLM)
    changes = [lever.change for lever in found]
    assert changes[0] == f"hybrid KV groups on ({CHUNKED_HYBRID_ENV}=1)"
    assert found[0].fits
    assert any("fp8_e4m3" in change for change in changes)
    for lever in found:
        again = plan_engine(lever.request, VLLM)
        assert again.fits == lever.fits
        assert again.capacity_tokens == lever.capacity_tokens
    fix = cheapest_fix(asked, plan, VLLM)
    assert fix == (found[0],) or fix[0].change == changes[0]


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
    found = search(fair(BUILTIN, 100_000), question, ENGINES)
    assert [answer.engine for answer in found] == [engine.name for engine in ENGINES]
    for answer in found:
        assert answer.value > 0
        assert answer.plan is not None
        assert answer.plan.fits


@pytest.mark.parametrize(
    ("engine", "asked", "added"),
    [
        (VLLM, request(5_242_880, version="0.12.0"), (f"{CHUNKED_HYBRID_ENV}=1",)),
        (VLLM, request(10_000_000, kv_dtype=KvDtype.FP8_E4M3, gpu="B200"), ("--max-num-seqs 256",)),
        (
            SGLANG,
            request(10_000_000, kv_dtype=KvDtype.FP8_E4M3, version="0.5.16"),
            ("--max-running-requests 8", "--swa-full-tokens-ratio 0.05"),
        ),
    ],
)
def test_what_a_plan_adds_is_said_and_can_be_refused(
    engine: Engine, asked: PlanRequest, added: tuple[str, ...]
) -> None:
    plan = plan_engine(asked, engine)
    assert plan.fits
    assert not plan.fits_with_defaults
    assert plan.added == added
    words = " ".join((*plan.flags, *(f"{name}={value}" for name, value in plan.env.items())))
    assert all(addition in words for addition in added)
    bare = plan_engine(replace(asked, as_given=True), engine)
    assert not bare.fits
    assert bare.added == ()
    assert not any(addition in " ".join(bare.flags) for addition in added)
    # The levers start from the bare plan, and those farspan adds are among what makes it fit.
    assert find_fix(asked, plan, engine).pull == ()
    assert (
        find_fix(asked, plan, engine).levers == find_fix(replace(asked, as_given=True), bare, engine).levers
    )
    pulled = [lever.change for lever in find_fix(replace(asked, as_given=True), bare, engine).pull]
    assert any(addition.split("=")[0].split()[0] in " ".join(pulled) for addition in added)


def test_a_flag_that_sizes_sglang_by_hand_keeps_its_value_and_gets_others_beside_it() -> None:
    asked = request(10_000_000, kv_dtype=KvDtype.FP8_E4M3, version="0.5.16")
    for flags in ({"--mem-fraction-static": "0.65"}, {"--disable-cuda-graph": None}):
        by_hand = replace(asked, engine_flags=flags, as_given=True)
        plan = plan_engine(by_hand, SGLANG)
        assert not plan.fits
        assert plan.added == ()
        plan = plan_engine(replace(by_hand, as_given=False), SGLANG)
        assert plan.fits
        assert plan.added == ("--max-running-requests 8", "--swa-full-tokens-ratio 0.05")
    plan = plan_engine(asked.with_flags({"--port": "30000", "--trust-remote-code": None}), SGLANG)
    assert plan.fits
    assert plan.added[0] == "--max-running-requests 8"
    assert plan.flags[plan.flags.index("--port") :][:2] == ("--port", "30000")


@pytest.mark.parametrize(
    ("engine", "flags"),
    [(VLLM, {"--gpu-memory-utilization": "0.30"}), (SGLANG, {"--mem-fraction-static": "0.30"})],
)
def test_the_offload_lever_frees_what_it_moves(engine: Engine, flags: dict[str, str | None]) -> None:
    asked = replace(request(1_500_000, flags=flags), as_given=True)
    plan = plan_engine(asked, engine)
    assert not plan.fits
    lever = next(
        lever for lever in find_fix(asked, plan, engine).levers if lever.change.startswith("--cpu-offload-gb")
    )
    moved = int(lever.change.split()[1]) * 2**30
    assert lever.bytes_freed == pytest.approx(moved, rel=0.02)
    assert lever.plan.weights_bytes == plan.weights_bytes - moved
    assert lever.plan.ledger.host_bytes - plan.ledger.host_bytes == moved
    assert any("over PCIe" in note for note in lever.plan.notes)
    if lever.fits and moved > 2**30:
        less = asked.with_flags({**asked.engine_flags, "--cpu-offload-gb": str(moved // 2**30 - 1)})
        assert not plan_engine(less, engine).fits


def test_offloaded_weights_need_not_fit_the_gpu() -> None:
    asked = replace(request(128_000), tp=1, gpus=1)
    assert "take 202 GiB" in plan_engine(asked, VLLM).reason
    for engine in (VLLM, SGLANG):
        plan = plan_engine(asked.with_flags({"--cpu-offload-gb": "150"}), engine)
        assert plan.weights_bytes < 60 * 2**30
        assert plan.fits


def test_every_kind_of_lever_is_offered() -> None:
    """Dtype, hybrid, fraction, requests, window ratio, graphs, TP, offload."""
    old = request(
        5_242_880,
        gpus=8,
        version="0.12.0",
        flags={"--disable-hybrid-kv-cache-manager": None, "--gpu-memory-utilization": "0.8"},
    )
    old = replace(old, tp=4)
    changes = " | ".join(lever.change for lever in levers(old, plan_engine(old, VLLM), VLLM))
    for lever in (
        "hybrid",
        "fp8_e4m3",
        "--gpu-memory-utilization",
        "--max-num-seqs",
        "--enforce-eager",
        "--tp 8",
        "--cpu-offload-gb",
        "--weights fp8",
        "newest version",
    ):
        assert lever in changes, (lever, changes)
    new = replace(request(10_000_000, flags={"--mem-fraction-static": "0.65"}), tp=4, as_given=True)
    changes = " | ".join(lever.change for lever in levers(new, plan_engine(new, SGLANG), SGLANG))
    for lever in (
        "--max-running-requests 8",
        "--swa-full-tokens-ratio",
        "--mem-fraction-static",
        "--disable-cuda-graph",
        "--kv-cache-dtype fp8_e4m3",
        "--cpu-offload-gb",
        "--tp 8",
    ):
        assert lever in changes, (lever, changes)


def test_data_parallel_replicas_multiply_requests_and_not_the_longest() -> None:
    one = replace(request(128_000, gpus=2), model=EIGHT)
    four = replace(one, gpus=8, concurrency=8, engine_flags={"--data-parallel-size": "4"})
    for engine in (VLLM, SGLANG):
        alone, together = plan_engine(one, engine), plan_engine(four, engine)
        assert together.max_concurrency == pytest.approx(4 * alone.max_concurrency)
        assert together.capacity_tokens == alone.capacity_tokens
        assert together.flags[-2:] == ("--data-parallel-size", "4")
        assert together.ledger.gpu_bytes == alone.ledger.gpu_bytes
    with pytest.raises(InputError, match="5 replicas of 2 GPUs need 10"):
        plan_engine(replace(four, engine_flags={"--data-parallel-size": "5"}), VLLM)
    experts = plan_engine(replace(request(128_000), tp=4, engine_flags={"-dp": "2"}), VLLM)
    whole = plan_engine(replace(request(128_000), tp=4, gpus=4), VLLM)
    assert experts.weights_bytes < 0.6 * whole.weights_bytes
    assert any("share the experts out between them" in note for note in experts.notes)


def test_pipeline_stages_take_gpus_of_their_own() -> None:
    with pytest.raises(InputError, match="2 pipeline stages of 8 GPUs need 16, and there are 8; use --tp 4"):
        plan_engine(request(128_000, flags={"--pipeline-parallel-size": "2"}), VLLM)
    with pytest.raises(InputError, match=r"2 pipeline stages of 8 GPUs need 16 GPUs .*; use --tp 4"):
        plan_engine(request(128_000, flags={"--pp-size": "2"}), SGLANG)
