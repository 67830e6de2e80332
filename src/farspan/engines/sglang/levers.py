"""What can be changed when a request does not fit SGLang, in order of what it costs the user."""

from __future__ import annotations

from collections.abc import Callable

from farspan.planner.lever_candidate import LeverCandidate
from farspan.planner.levers import (
    FP8_KV,
    FP8_WEIGHTS,
    MORE_GPUS,
    MORE_RANKS,
    NEWEST_VERSION,
    drop_shorter_context,
    offload_weights,
    raise_fraction,
    set_flag,
    with_flags,
)
from farspan.planner.request import EnginePlan, PlanRequest

_ROWS = "--max-running-requests"


def _fewer_rows(request: PlanRequest) -> PlanRequest | None:
    """As many rows of the request-to-token table as requests are wanted at once, and no fewer than 8."""
    wanted = max(8, request.concurrency)
    if request.has_flag(_ROWS) and request.int_flag(wanted, _ROWS) <= wanted:
        return None
    return with_flags(request, {_ROWS: str(wanted)})


def sglang_levers(outline: Callable[[PlanRequest], EnginePlan]) -> tuple[LeverCandidate, ...]:
    """SGLang's levers: those that cost nothing first, then speed, then exactness, then money.

    Args:
        outline: Plans SGLang without ledger and remarks.
    """
    return (
        drop_shorter_context("--context-length"),
        LeverCandidate(
            f"{_ROWS} 8",
            "fewer requests at once",
            _fewer_rows,
            lambda changed: f"{_ROWS} {changed.int_flag(8, _ROWS)}",
        ),
        LeverCandidate(
            "--swa-full-tokens-ratio 0.05",
            "fewer short requests at once",
            set_flag("--swa-full-tokens-ratio", "0.05"),
        ),
        LeverCandidate(
            "--hybrid-kvcache-ratio 1",
            "nothing, but no prompt may be larger than the window pool",
            set_flag("--hybrid-kvcache-ratio", "1"),
        ),
        NEWEST_VERSION,
        LeverCandidate(
            "--mem-fraction-static 0.90",
            "less room for activations",
            raise_fraction("--mem-fraction-static", 0.9),
        ),
        LeverCandidate(
            "--disable-radix-cache", "no reuse of prefixes", set_flag("--disable-radix-cache", None)
        ),
        LeverCandidate("--disable-cuda-graph", "slower decode", set_flag("--disable-cuda-graph", None)),
        FP8_KV,
        offload_weights("every step copies that much over PCIe", outline),
        FP8_WEIGHTS,
        MORE_RANKS,
        MORE_GPUS,
    )
