"""Whether the weights alone fit the GPUs: what no engine's arithmetic needs to be asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from farspan.hardware.gpu import Gpu
from farspan.models.spec import ModelSpec
from farspan.models.weights import offloadable_bytes, rank_weight_bytes
from farspan.planner.plan import valid_tps
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.sizes import GIB, format_bytes

MOST_RANKS = 64
# Room a rank needs beside its weights before any KV: the CUDA context alone takes 0.6 GiB on an H200.
_BESIDE_WEIGHTS = GIB


def with_weights_checked(plan: EnginePlan, request: PlanRequest) -> EnginePlan:
    """A plan as it is where the weights fit; else one that does not start, with the reason.

    The ledger stays what the engine would allocate, so it shows by how much; nothing is printed or held.

    Raises:
        InputError: `--cpu-offload-gb` is not a number.
    """
    offloaded = 0
    if request.engine_flags and request.has_flag("--cpu-offload-gb"):
        offloaded = int(request.float_flag(0.0, "--cpu-offload-gb") * GIB)
    if request.engine_flags and request.has_flag("--pp-size", "--pipeline-parallel-size"):
        return plan  # each stage holds its own layers: the engine's plan counts them
    if request.replicas > 1 and any(layer.moe for layer in request.model.layers):
        return plan  # replicas share the experts out between them
    reason = _shortage(request.model, request.gpu, request.tp, offloaded)
    if not reason:
        return plan
    return replace(
        plan,
        starts=False,
        fits=False,
        reason=reason,
        capacity_tokens=0,
        max_concurrency=0.0,
        printed={},
        pools={},
        time=None,
        added=(),
    )


@lru_cache(maxsize=256)
def fewest_ranks(model: ModelSpec, gpu: Gpu) -> int:
    """The smallest tensor-parallel size whose ranks hold the weights on GPUs; 0 when 64 are not enough."""
    for ranks in valid_tps(model, MOST_RANKS):
        if rank_weight_bytes(model, ranks).total + _BESIDE_WEIGHTS <= gpu.memory_bytes:
            return ranks
    return 0


@lru_cache(maxsize=256)
def _shortage(model: ModelSpec, gpu: Gpu, tp: int, offloaded: int) -> str:
    """Why the weights of one rank do not fit, and the fewest ranks that hold them; empty when they fit."""
    weights = rank_weight_bytes(model, tp).total - min(offloaded, offloadable_bytes(model, tp))
    if weights + _BESIDE_WEIGHTS <= gpu.memory_bytes:
        return ""
    enough = fewest_ranks(model, gpu)
    fix = f"use --tp {enough} or more, or a smaller weight format" if enough else "use a larger GPU"
    return (
        f"the weights of {model.name} take {format_bytes(weights)} on each of {tp} GPU{'s' if tp > 1 else ''}, "
        f"and one {gpu.name} has {format_bytes(gpu.memory_bytes)}: {fix}"
    )
