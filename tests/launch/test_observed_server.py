"""A plan beside what one rank was seen to do, and the calibration that it teaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from farspan.diagnosis.examine import read_server_state
from farspan.engines.logs.server_state import Hints
from farspan.engines.registry import get_engine
from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.launch.observed_server import MEMORY, ObservedServer, ObservedTime, calibrate
from farspan.launch.validation import ValidatedFigure, compare_start
from farspan.models.config import load_model
from farspan.planner.build_document import build_engine
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.timing import eager_step_seconds
from farspan.sizes import GIB

REQUEST = PlanRequest(load_model("llama-3.1-8b"), find_gpu("H100"), 1, 1, 65_536, engine_version="0.19.0")
# Eight ranks read so little that a step waits for its launches.
EAGER = replace(REQUEST, gpus=8, tp=8).with_flags({"--enforce-eager": None})


def _planned(request: PlanRequest) -> EnginePlan:
    return get_engine("vllm").plan(request)


def _seen(plan: EnginePlan, *, lost_gib: float = 0.0, slower: float = 1.0) -> ObservedServer:
    """A server that does what was planned, but for some memory and speed."""
    times = []
    for context in (16_384, 32_768, 65_536):
        time = _planned(
            replace(REQUEST if "--enforce-eager" not in plan.flags else EAGER, context=context)
        ).time
        assert time is not None
        times.append(
            ObservedTime(context - 200, 200, time.ttft_expected_s * slower, time.itl_expected_s * slower)
        )
    return ObservedServer(
        {
            "weights_gib": plan.weights_bytes / GIB,
            "available_kv_gib": plan.available_kv_bytes / GIB - lost_gib,
            "graphs_gib": 2 * plan.ledger["CUDA graphs"].bytes / GIB
            if "CUDA graphs" in plan.ledger
            else -1.0,
        },
        tuple(times),
    )


def _rows(plan: EnginePlan, figures: Mapping[str, float]) -> dict[str, ValidatedFigure]:
    found = compare_start(get_engine("vllm"), build_engine(65_536, plan), figures, MEMORY)
    return {row.what: row for row in found}


def test_rows_of_memory() -> None:
    plan = _planned(REQUEST)
    rows = _rows(plan, _seen(plan).figures)
    assert rows["weights, GiB a GPU"].within
    assert rows["KV memory, GiB a GPU"].within
    assert not rows["CUDA graphs, GiB a GPU"].within
    assert rows["CUDA graphs, GiB a GPU"].difference_percent == pytest.approx(-50)
    room = _rows(plan, _seen(plan, lost_gib=2.0).figures)["KV memory, GiB a GPU"]
    assert not room.within
    assert room.difference_gib == pytest.approx(2.0, abs=0.01)


def test_what_was_seen_comes_back_in_the_next_plan() -> None:
    plan = _planned(REQUEST)
    seen = _seen(plan, lost_gib=0.25, slower=1.5)
    found = calibrate(REQUEST, plan, seen, date="2026-12-01", model="llama-3.1-8b")
    assert found.key == plan.conditions
    # What is printed has two digits.
    assert found.outside_torch_bytes == pytest.approx(0.25 * GIB, abs=0.02 * GIB)
    assert found.graphs_share == pytest.approx(2.0, rel=1e-6)
    again = _planned(replace(REQUEST, calibrations=(found,)))
    assert again.available_kv_bytes / GIB == pytest.approx(seen.figures["available_kv_gib"], abs=0.02)
    for time in seen.times:
        planned = _planned(replace(REQUEST, calibrations=(found,), context=time.context)).time
        assert planned is not None
        assert time.itl_s is not None
        assert planned.ttft_expected_s == pytest.approx(time.ttft_s, rel=0.02)
        assert planned.itl_expected_s == pytest.approx(time.itl_s, rel=0.02)
    assert all(row.within for row in _rows(again, seen.figures).values())


def test_an_eager_step_is_launches() -> None:
    plan = _planned(EAGER)
    found = calibrate(EAGER, plan, _seen(plan, slower=1.5), date="2026-12-01", model="llama-3.1-8b")
    assert found.eager
    assert plan.time is not None
    # Eight ranks were measured together: what they exchange is in the time of a launched step.
    launched = plan.time.itl_expected_s / eager_step_seconds(EAGER.model)
    assert launched > 1
    assert found.launches == pytest.approx(1.5 * launched, rel=1e-6)
    again = _planned(replace(EAGER, calibrations=(found,))).time
    assert again is not None
    assert again.itl_expected_s == pytest.approx(1.5 * plan.time.itl_expected_s, rel=1e-6)


def test_a_calibrated_plan_and_an_empty_run_are_refused() -> None:
    plan = _planned(REQUEST)
    found = calibrate(REQUEST, plan, _seen(plan), date="2026-12-01", model="llama-3.1-8b")
    with pytest.raises(InputError, match="without a calibration"):
        calibrate(
            REQUEST,
            _planned(replace(REQUEST, calibrations=(found,))),
            _seen(plan),
            date="2026-12-01",
            model="m",
        )
    with pytest.raises(InputError, match="nothing was measured"):
        calibrate(REQUEST, plan, ObservedServer({}), date="2026-12-01", model="m")


def test_the_parts_of_a_profile_run_are_rows() -> None:
    # As vLLM words them (v1/worker/gpu_worker.py, utils/mem_utils.py), with what the plan says in them.
    ledger = _planned(REQUEST).ledger
    peak = ledger["sampler of the largest step"].bytes / GIB
    outside = ledger["kernels and workspaces outside torch"].bytes / GIB
    lines = (
        "INFO 12-01 00:00:00 [core.py:1] Initializing a V1 LLM engine (v0.19.0) with config: model='m', max_seq_len=1\n"
        "DEBUG 12-01 00:00:01 [gpu_worker.py:507] Memory profiling takes 3.21 seconds. Total non KV cache memory: "
        f"17.10GiB; torch peak memory increase: {peak:.2f}GiB; non-torch forward increase memory: {outside:.2f}GiB; "
        "weights memory: 14.99GiB.\n",
        "DEBUG 12-01 00:00:09 [gpu_worker.py:731] Free memory on device (78.6/79.2 GiB) on startup. Desired GPU memory "
        "utilization is (0.9, 71.3 GiB). Actual usage is 14.99 GiB for weight, 3.0 GiB for peak activation, 0.2 GiB "
        "for non-torch memory, and 0.5 GiB for CUDAGraph memory. Replace gpu_memory_utilization config\n",
    )
    for text, within in zip(lines, (True, False), strict=True):
        figures = read_server_state([text.encode()], Hints()).figures
        rows = _rows(_planned(REQUEST), figures)
        assert rows["peak of the largest step, GiB a GPU"].within is within
        assert "outside torch, GiB a GPU" in rows
