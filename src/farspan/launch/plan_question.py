"""What a launch asks the planner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farspan.hardware.node_spelling import parse_node
from farspan.models.spec import ModelSpec
from farspan.planner.calibration_store import load_calibrations
from farspan.planner.engine_flags import check_kv_dtypes, parse_engine_flags
from farspan.planner.request import PlanRequest

if TYPE_CHECKING:
    from farspan.launch.serve_options import ServeOptions


def longest_context(options: ServeOptions, spec: ModelSpec, version: str) -> int:
    """The longest context that fits at the wanted concurrency; the model's where none does."""
    from farspan.planner.questions import largest_context

    request = plan_question(options, spec, spec.max_position_embeddings, version)
    return largest_context(request, options.engine) or spec.max_position_embeddings


def plan_question(options: ServeOptions, spec: ModelSpec, context: int, version: str) -> PlanRequest:
    """The question that the options put to the planner."""
    flags = parse_engine_flags(options.words)
    check_kv_dtypes(options.kv_dtype, flags)
    node = parse_node(options.gpus)
    total = node.count * options.nodes
    return PlanRequest(
        model=spec,
        gpu=node.gpu,
        gpus=total,
        tp=options.tp or min(total, options.engine.most_ranks or total),
        context=context,
        concurrency=options.concurrency,
        kv_dtype=options.kv_dtype,
        engine_version=version,
        accept_nearest_version=options.accept_nearest_version,
        engine_flags=flags,
        output_tokens=options.output_tokens,
        host_memory_bytes=node.host_memory_bytes,
        # A cluster is not this machine.
        calibrations=() if options.no_calibration or options.runtime == "kubernetes" else load_calibrations(),
    )
