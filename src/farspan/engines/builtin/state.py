"""Everything known of one built-in server with a cap of its KV cache."""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.builtin.flags import DEFAULTS, BuiltinFlags
from farspan.engines.builtin.footprint import CONTEXT_BYTES, weight_bytes, working_bytes
from farspan.engines.builtin.layout import cache_size
from farspan.engines.builtin.pool import bytes_of
from farspan.kv.sizing import CacheSize
from farspan.planner.request import PlanRequest


class BuiltinState(NamedTuple):
    """One planned server; everything in bytes.

    Args:
        request: The question.
        flags: Its flags.
        weights: The text weights.
        free: Left by the driver's context and the weights; negative when these do not fit.
        working: Activations of one step.
        cap: The most the KV cache may take.
        raised: Whether farspan raised the cap above the default share of free memory.
        size: The cache's pages and segments under that cap.
        wanted: What the requests asked for take together.
    """

    request: PlanRequest
    flags: BuiltinFlags
    weights: int
    free: int
    working: int
    cap: int
    raised: bool
    size: CacheSize
    wanted: int

    @property
    def start(self) -> int:
        """Bytes of the cache until a request comes."""
        return min(self.size.start_bytes, max(0, self.cap))

    @property
    def held(self) -> int:
        """Bytes of the cache while the requests run."""
        return min(self.wanted, self.cap)

    @property
    def left(self) -> int:
        """Bytes left on the GPU while the requests run; negative when they do not fit."""
        return self.free - max(self.held, self.start) - self.working

    @property
    def starts(self) -> bool:
        """Whether the server starts."""
        return self.free > 0 and self.size.start_bytes <= self.cap

    @property
    def fits(self) -> bool:
        """Whether it starts and serves what is asked."""
        return (
            self.starts
            and self.wanted <= self.cap
            and self.request.concurrency <= self.flags.sequences
            and self.left >= 0
        )


def build_state(request: PlanRequest, flags: BuiltinFlags, cap: int | None = None) -> BuiltinState:
    """A server with its cap as given, or the default share of free memory; with `cap` where that is not None."""
    model = request.model
    weights = weight_bytes(model, flags.value_bytes)
    free = request.gpu.memory_bytes - CONTEXT_BYTES - weights
    working = working_bytes(model, flags.value_bytes, min(flags.step_tokens, request.context))
    raised = cap is not None
    if cap is None:
        cap = _own_cap(request, flags, free)
    size = cache_size(model, flags, cap)
    wanted = bytes_of(size, request.context, request.concurrency)
    return BuiltinState(request, flags, weights, free, working, cap, raised, size, wanted)


def _own_cap(request: PlanRequest, flags: BuiltinFlags, free: int) -> int:
    if request.available_kv_bytes is not None:
        return request.available_kv_bytes
    if flags.cap_bytes is not None:
        return flags.cap_bytes
    return int(max(0, free) * DEFAULTS.share)
