"""Data parallelism: several servers alike behind one address, each with the whole model on GPUs of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from farspan.errors import InputError
from farspan.planner.memory_model import MemoryModel
from farspan.planner.request import EnginePlan, PlanRequest


def count_replicas(request: PlanRequest, engine: MemoryModel) -> int:
    """Replicas the engine flags ask for.

    Raises:
        InputError: The number is not positive, the GPUs are too few, or the replicas are not independent.
    """
    names = engine.data_parallel_flags
    if not request.has_flag(*names):
        return 1
    replicas = request.int_flag(1, *names)
    if replicas < 1:
        raise InputError(f"{names[0]} {replicas} is not positive", "give at least 1")
    if replicas * request.tp > request.gpus:
        raise InputError(
            f"{replicas} replicas of {request.tp} GPUs need {replicas * request.tp}, and there are {request.gpus}",
            "lower --tp or the replicas",
        )
    if replicas > 1:
        engine.check_replicas(request)
    return replicas


def plan_replicas(
    request: PlanRequest, engine: MemoryModel, planner: Callable[[PlanRequest], EnginePlan]
) -> EnginePlan:
    """Plan one replica with its share of the requests, and say what all of them hold together.

    vllm v1/engine/core.py: DPEngineCoreProc, one engine with a KV cache of its own a rank; sglang
    srt/managers/data_parallel_controller.py: DataParallelController, one scheduler group a rank.
    """
    replicas = count_replicas(request, engine)
    if replicas == 1:
        return planner(request)
    names = engine.data_parallel_flags
    flags = {name: value for name, value in request.engine_flags.items() if name not in names}
    share = -(-request.concurrency // replicas)
    alone = replace(
        request, concurrency=share, engine_flags=flags, gpus=request.gpus // replicas, replicas=replicas
    )
    plan = planner(alone)
    return replace(
        plan,
        reason=f"each of {replicas} replicas: {plan.reason}",
        max_concurrency=plan.max_concurrency * replicas,
        flags=(*plan.flags, names[0], str(replicas)) if plan.flags else (),
        notes=(
            *plan.notes,
            f"Data parallelism is {replicas} servers alike: the longest request is that of one of them, and the "
            "figures printed and the memory are those of each.",
        ),
    )
