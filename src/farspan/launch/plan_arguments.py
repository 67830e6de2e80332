"""How a server was planned, as the arguments that plan other contexts for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farspan.planner.request import PlanRequest

if TYPE_CHECKING:
    from farspan.launch.serve_options import ServeOptions


def list_plan_arguments(options: ServeOptions, request: PlanRequest | None) -> dict[str, object]:
    """List what `farspan.plan` takes, as plain JSON values; nothing where nothing was planned, or for several machines,
    which have no spelling.
    """
    if request is None or options.nodes > 1:
        return {}
    return {
        "model": options.model,
        "gpus": options.gpus,
        "tp": request.tp,
        "engine": options.engine.name,
        "engine_version": request.engine_version,
        "accept_nearest_version": options.accept_nearest_version,
        "concurrency": options.concurrency,
        "output_tokens": options.output_tokens,
        "kv_dtype": options.kv_dtype.value,
        "weights": options.weights or None,
        "offline": options.offline,
        "no_calibration": options.no_calibration,
        "engine_flags": list(options.words),
    }
