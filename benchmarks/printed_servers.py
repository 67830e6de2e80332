"""A server whose printed figures are in a table, as a request to the planner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farspan.hardware.node_spelling import parse_node
from farspan.models.config import load_model, spec_from_config
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.request import PlanRequest

RELATIVE, ABSOLUTE = 0.005, 0.3  # what counts as right: half a percent, or 0.3 GiB


def request_for(server: Mapping[str, Any], configs: Mapping[str, Any], *, as_given: bool) -> PlanRequest:
    """Return the request of a row; its model is the catalog's where `configs` has none of that name."""
    name, node = server["model"], parse_node(server["gpus"])
    model = (
        spec_from_config(configs[name], name) if name in configs else load_model(name, allow_network=False)
    )
    return PlanRequest(
        model,
        node.gpu,
        node.count,
        server["tp"],
        server["context"],
        engine_version=server["version"],
        engine_flags=parse_engine_flags(server["flags"]),
        as_given=as_given,
    )


def is_right(off_gib: float, printed_gib: float) -> bool:
    """Return whether KV memory is as near to what was printed as is asked for."""
    return abs(off_gib) <= max(RELATIVE * printed_gib, ABSOLUTE)
