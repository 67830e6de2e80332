"""Specs, GPUs and rules compare by value, and caches that look them up stay cheap."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace

import pytest

from farspan.engines.registry import engine_names, get_engine
from farspan.engines.sglang.versions import KNOWN_VERSIONS as SGLANG_VERSIONS
from farspan.engines.sglang.versions import rules_of
from farspan.engines.vllm.versions import RULES
from farspan.hardware.gpu import Node
from farspan.hardware.node_spelling import parse_node
from farspan.models import catalog
from farspan.models.config import load_model
from farspan.models.weights import rank_weight_bytes
from farspan.planner.plan import plan_engine
from farspan.planner.request import PlanRequest
from farspan.planner.sweep import sweep


@pytest.mark.parametrize("name", catalog.names())
def test_a_model_equals_itself_read_again(name: str) -> None:
    model = load_model(name)
    copy = pickle.loads(pickle.dumps(model))
    assert load_model(name) is model
    assert copy is not model
    assert copy == model
    assert hash(copy) == hash(model) == hash(load_model(name))
    assert replace(model, notes=("another",)) != model
    assert len({model, copy, replace(model, hidden_size=model.hidden_size + 1)}) == 2


def test_equal_models_share_what_was_worked_out() -> None:
    model = load_model("llama-4-scout")
    assert rank_weight_bytes(replace(model), 8) is rank_weight_bytes(model, 8)


def test_gpus_and_rules_compare_by_value() -> None:
    gpu = parse_node("8xH200").gpu
    assert replace(gpu) == gpu
    assert hash(replace(gpu)) == hash(gpu)
    assert replace(gpu, memory_bytes=gpu.memory_bytes - 1) != gpu
    for rules in RULES.values():
        assert replace(rules) == rules
        assert hash(replace(rules)) == hash(rules)
    assert len(set(RULES.values())) == len(RULES)
    for version in SGLANG_VERSIONS:
        assert replace(rules_of(version)) == rules_of(version)
        assert hash(replace(rules_of(version))) == hash(rules_of(version))


@pytest.mark.parametrize("engine", engine_names())
def test_a_plan_of_equal_questions_is_equal(engine: str) -> None:
    node, model = parse_node("1xH200"), load_model("llama-3.1-8b")
    request = PlanRequest(model=model, gpu=node.gpu, gpus=1, tp=1, context=100_000)
    copy = replace(request, model=replace(model), gpu=replace(node.gpu))
    assert plan_engine(copy, get_engine(engine)) == plan_engine(request, get_engine(engine))


@pytest.mark.parametrize("engine", engine_names())
def test_a_sweep_of_a_model_read_again_is_as_fast(engine: str) -> None:
    """10,000 points take about a second of CPU; ten times that would mean that caches compare models or miss."""
    node, name = parse_node("1xH200"), "llama-3.1-8b"
    list(sweep(_question(name, node), [1_000], [get_engine(engine)]))
    start = time.process_time()
    points = sum(1 for _ in sweep(_question(name, node), range(1_000, 11_000, 5), [get_engine(engine)]))
    assert points == 2_000
    assert time.process_time() - start < 2.0


def _question(name: str, node: Node) -> PlanRequest:
    return PlanRequest(model=load_model(name), gpu=node.gpu, gpus=1, tp=1, context=1_000)
