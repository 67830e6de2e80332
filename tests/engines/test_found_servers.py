"""The planner beside servers that were found after it was fitted: benchmarks/found_servers.py and its page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from farspan.engines.vllm.plan import plan_vllm
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.request import PlanRequest
from load_benchmark import load_benchmark

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found() -> ModuleType:
    return load_benchmark("found_servers")


def test_no_fewer_are_right_than_when_they_were_found(found: ModuleType) -> None:
    judged = found.judge_all()
    assert len(judged) >= 25
    before = Counter(server["before"][0] for server, _ in judged)
    now = Counter(verdict.kind for _, verdict in judged)
    assert now["right"] >= before["right"]
    assert now["refused"] < before["refused"]


def test_the_page_says_what_the_planner_says_today(found: ModuleType) -> None:
    judged = found.judge_all()
    page = found.PAGE.read_text("utf-8")
    for line in (*found.counts(judged), *found.table(judged)):
        assert line in page


def test_a_card_that_shares_memory_with_its_host_is_warned_of() -> None:
    for gpu, warned in (("GB10", True), ("RTX-5090", False)):
        plan = plan_vllm(
            PlanRequest(load_model("llama-3.1-8b", allow_network=False), find_gpu(gpu), 1, 1, 8192)
        )
        assert any("shares its memory with the host" in warning for warning in plan.warnings) is warned
