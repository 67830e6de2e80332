"""The built-in engine's memory: weights once, and a KV cache that takes memory only as sequences grow.

Mirrors farspan's own `builtin` and `kv` packages: one GPU, KV in the model's dtype or FP8, no RoPE table.
"""

from __future__ import annotations

from collections.abc import Iterator

from farspan import __version__
from farspan.engines.builtin.flags import read_flags
from farspan.engines.builtin.layout import cache_size
from farspan.engines.builtin.ledger import make_ledger
from farspan.engines.builtin.pool import bytes_of, concurrent_sequences, longest_sequence
from farspan.engines.builtin.remarks import find_remarks
from farspan.engines.builtin.state import BuiltinState, build_state
from farspan.models.spec import KvDtype
from farspan.planner.calibration import CalibrationKey, find_calibration
from farspan.planner.ledger import MemoryLedger
from farspan.planner.remarks import Remarks
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.settle import settle
from farspan.planner.timing import estimate_time, has_experts
from farspan.sizes import GIB, format_bytes

_STEP = GIB // 100  # --kv-cache-gib is written with two digits


def plan_builtin(request: PlanRequest) -> EnginePlan:
    """What the built-in engine would do with a request.

    Raises:
        InputError: A model it does not run, a KV type other than the model's, a flag it
            does not have.
    """
    return _plan(request, outline=False)


def outline_builtin(request: PlanRequest) -> EnginePlan:
    """The same plan without ledger and remarks, for sweeps and searches.

    Raises:
        InputError: As `plan_builtin`.
    """
    return _plan(request, outline=True)


def _plan(request: PlanRequest, *, outline: bool) -> EnginePlan:
    flags = read_flags(request)
    state = build_state(request, flags)
    by_hand = request.available_kv_bytes is not None or flags.cap_bytes is not None
    if not by_hand and not request.as_given:
        state = settle(state, _raised(state), serves=lambda server: server.wanted <= server.cap)
    return _answer(state, outline=outline)


def _raised(state: BuiltinState) -> Iterator[BuiltinState]:
    """The server with a cap as large as the requests need, if the memory is there."""
    request, cap = state.request, state.cap
    # A larger cap may have larger segments; the second count is with those of the first.
    for _ in range(2):
        size = cache_size(request.model, state.flags, max(cap, state.cap))
        cap = -(-bytes_of(size, request.context, request.concurrency) // _STEP) * _STEP
    if state.cap < cap <= state.free - state.working:
        yield build_state(request, state.flags, cap)


def _answer(state: BuiltinState, *, outline: bool) -> EnginePlan:
    """The plan of a server."""
    request, size, cap = state.request, state.size, max(0, state.cap)
    capacity = longest_sequence(size, state.cap)
    needed = size.needed_bytes(request.context)
    concurrency = 0.0
    if state.free > 0:
        at_once = concurrent_sequences(size, request.context, state.cap)
        concurrency = min(at_once, float(state.flags.sequences))
    remarks = Remarks() if outline else find_remarks(raised=state.raised)
    kv = "fp8" if state.flags.fp8 else "bf16"
    conditions = CalibrationKey(
        "builtin", __version__, "", kv, request.gpu.name, eager=False, experts=has_experts(request.model)
    )
    calibration = find_calibration(request.calibrations, conditions)
    return EnginePlan(
        engine="builtin",
        version=__version__,
        starts=state.starts,
        fits=state.fits,
        reason=_reason(state, needed),
        weights_bytes=state.weights,
        available_kv_bytes=cap,
        capacity_tokens=capacity,
        max_concurrency=concurrency,
        printed={
            "max_model_len": request.context,
            "KV cache": format_bytes(size.start_bytes),
            "growing to": format_bytes(cap),
        },
        pools={
            "longest sequence at the cap": capacity,
            "bytes at start": size.start_bytes,
            f"bytes at {request.context:,} tokens": needed,
            "bytes at the cap": cap,
        },
        ledger=MemoryLedger((), request.gpu.memory_bytes) if outline else make_ledger(state),
        flags=server_flags(state),
        warnings=remarks.warnings,
        notes=(*((calibration.note,) if calibration else ()), *remarks.notes),
        time=estimate_time(
            request.model,
            request.gpu,
            tp=1,
            engine="builtin",
            version=__version__,
            prompt_tokens=max(1, request.context - request.output_tokens),
            output_tokens=request.output_tokens,
            kv_dtype=KvDtype.AUTO,
            calibration=calibration,
        ),
        conditions=conditions,
        calibration=calibration,
        added=(f"--kv-cache-gib {cap / GIB:.2f}",) if state.raised else (),
    )


def server_flags(state: BuiltinState) -> tuple[str, ...]:
    """The server's arguments, ready to paste; flags given by hand are passed through."""
    words = ["--device", "cuda", "--max-model-len", str(state.request.context)]
    if state.flags.fp8 and not state.request.has_flag("--kv-cache-dtype"):
        words += ["--kv-cache-dtype", KvDtype.FP8_E4M3.value]
    if state.raised:
        words += ["--kv-cache-gib", f"{state.cap / GIB:.2f}"]
    return (*words, *state.flags.passed_on)


def _reason(state: BuiltinState, needed: int) -> str:
    """One sentence: why it fits, or what breaks it and by how much."""
    request, cap, sequences = state.request, state.cap, state.flags.sequences
    if state.free <= 0:
        return f"the weights leave no memory: {format_bytes(-state.free)} short"
    one = f"one request of {request.context:,} tokens takes {format_bytes(needed)}"
    if state.fits:
        return f"{one} of the {format_bytes(cap)} the cache may grow to"
    if request.concurrency > sequences:
        return f"--max-num-seqs {sequences} is below {request.concurrency} requests"
    if cap < state.wanted:
        return f"{one}, {request.concurrency} of them more than the {format_bytes(cap)} the cache may grow to"
    return f"{format_bytes(-state.left)} short while serving: {one}"
