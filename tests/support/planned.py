"""A plan for all GPUs of a node as one group of ranks."""

from __future__ import annotations

from farspan.engines.registry import get_engine
from farspan.hardware.node_spelling import parse_node
from farspan.models.spec import ModelSpec
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.request import EnginePlan, PlanRequest


def plan_on(engine: str, version: str, model: ModelSpec, gpus: str, context: int, *flags: str) -> EnginePlan:
    node = parse_node(gpus)
    request = PlanRequest(
        model,
        node.gpu,
        node.count,
        node.count,
        context,
        engine_version=version,
        engine_flags=parse_engine_flags(flags),
    )
    return get_engine(engine).plan(request)
