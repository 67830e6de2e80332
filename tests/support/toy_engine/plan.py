"""The toy's memory: weights, a reserve, and a pool in which every layer keeps every token."""

from __future__ import annotations

from farspan.errors import UnsupportedError
from farspan.models.weights import rank_weight_bytes
from farspan.planner.ledger import Allocation, Basis, LedgerPhase, MemoryLedger
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.timing import estimate_time
from farspan.planner.versions import resolve_version
from farspan.sizes import GIB

KNOWN_VERSIONS = ("1.0.0", "1.1.0")
_RESERVE = {"1.0.0": 4 * GIB, "1.1.0": 2 * GIB}


def plan_toy(request: PlanRequest, *, outline: bool) -> EnginePlan:
    version, _ = resolve_version(
        "toy", request.engine_version, KNOWN_VERSIONS, accept_nearest=request.accept_nearest_version
    )
    unknown = sorted(set(request.engine_flags) - {"--ctx", "--lean"})
    if unknown:
        raise UnsupportedError(f"toy has no {unknown[0]}", "it has --ctx and --lean")
    weights = rank_weight_bytes(request.model, request.tp).total
    reserve = 0 if request.has_flag("--lean") else _RESERVE[version]
    pool = max(0, request.gpu.memory_bytes - weights - reserve)
    row = sum(
        -(-layer.kv_entry_bytes(request.model.dtype_bytes) // request.tp) for layer in request.model.layers
    )
    capacity = pool // row
    fits = capacity >= request.context * request.concurrency
    lines = (
        Allocation("Weights", weights, LedgerPhase.LOAD, "model", "all tensors", "toy: load", Basis.MIRRORED),
        Allocation(
            "KV pool", pool, LedgerPhase.POOL, "free memory", "what is left", "toy: pool", Basis.ASSUMED
        ),
    )
    return EnginePlan(
        engine="toy",
        version=version,
        starts=True,
        fits=fits,
        reason=f"the pool holds {capacity:,} tokens",
        weights_bytes=weights,
        available_kv_bytes=pool,
        capacity_tokens=min(capacity, request.model.max_position_embeddings),
        max_concurrency=capacity / request.context,
        printed={"pool tokens": capacity},
        pools={"tokens": capacity},
        ledger=MemoryLedger(() if outline else lines, request.gpu.memory_bytes),
        flags=("--ctx", str(request.context), *(name for name in request.engine_flags if name == "--lean")),
        time=estimate_time(
            request.model,
            request.gpu,
            tp=request.tp,
            engine="toy",
            version=version,
            prompt_tokens=max(1, request.context - request.output_tokens),
            output_tokens=request.output_tokens,
            kv_dtype=request.kv_dtype,
        ),
    )
