"""Does it fit, on each engine, before anything is launched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from farspan.errors import InputError
from farspan.models.spec import ModelSpec
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.sizes import format_tokens

if TYPE_CHECKING:
    from farspan.planner.memory_model import MemoryModel

# vLLM's way to serve a context longer than the model was made for: its planner says what that is worth.
_LONG_CONTEXT_ENV = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


def check_request(request: PlanRequest) -> None:
    """Refuse what no engine could serve.

    Raises:
        InputError: More ranks than GPUs, a TP the heads do not allow, a context the model does not, or a count
            below one.
    """
    model, gpu = request.model, request.gpu
    for name, value in (("--tp", request.tp), ("--concurrency", request.concurrency)):
        if value < 1:
            raise InputError(f"{name} {value} is not positive", "give at least 1")
    if request.tp > request.gpus:
        raise InputError(
            f"tensor parallel {request.tp} needs {request.tp} GPUs and there are {request.gpus}",
            f"use --tp {request.gpus} or --gpus {request.tp}x{gpu.name}",
        )
    model.check_tp(request.tp)
    allowed = request.engine_flags.get(_LONG_CONTEXT_ENV) not in (None, "", "0")
    if request.context > model.max_position_embeddings and not allowed:
        longest = model.max_position_embeddings
        raise InputError(
            f"a context of {format_tokens(request.context)} is above the {format_tokens(longest)} tokens "
            f"{model.name} was made for",
            f"use --context {format_tokens(longest).replace(',', '')} or less; --rope-scaling "
            f"yarn:{math.ceil(request.context / longest)} reaches further, where the model's card says so",
        )


def valid_tps(model: ModelSpec, most: int) -> list[int]:
    """Tensor-parallel sizes up to `most` that the model's heads allow."""
    sizes = []
    for tp in range(1, most + 1):
        try:
            model.check_tp(tp)
        except InputError:
            continue
        sizes.append(tp)
    return sizes


def plan_engine(request: PlanRequest, engine: MemoryModel) -> EnginePlan:
    """Plan one engine.

    Raises:
        InputError: The request is refused (see `check_request`), or the engine refuses a flag or version.
    """
    check_request(request)
    return engine.plan(request)


def plan_engines(
    request: PlanRequest, engines: Sequence[MemoryModel]
) -> tuple[list[EnginePlan], dict[str, str]]:
    """Plan several engines side by side.

    Returns:
        The plans, and for each engine that refuses the request (no such architecture, a flag it lacks) why.

    Raises:
        InputError: No engine could serve the request, or only one was asked for and it refuses.
    """
    check_request(request)
    plans, refusals = [], {}
    for engine in engines:
        try:
            plans.append(engine.plan(request))
        except InputError as error:
            if len(engines) == 1:
                raise
            refusals[engine.name] = str(error)
    if not plans:
        raise InputError("; ".join(f"{engine}: {why}" for engine, why in refusals.items()))
    return plans, refusals
