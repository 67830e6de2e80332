"""The built-in engine's memory ledger: every allocation on the GPU, in the order a server makes them."""

from __future__ import annotations

from farspan.engines.builtin.footprint import CONTEXT_BYTES
from farspan.engines.builtin.state import BuiltinState
from farspan.planner.ledger import Allocation, Basis, LedgerPhase, MemoryLedger
from farspan.sizes import format_bytes


def make_ledger(state: BuiltinState) -> MemoryLedger:
    """Every allocation, in the order the server makes them."""
    request, size, start = state.request, state.size, state.start
    lines = (
        Allocation(
            "CUDA context",
            CONTEXT_BYTES,
            LedgerPhase.LOAD,
            "",
            "0.67 GiB",
            "sglang 0.5.16 log of one H200: 139.80 GiB less 139.13 free",
            Basis.FITTED,
        ),
        Allocation(
            "Weights",
            state.weights,
            LedgerPhase.LOAD,
            "model",
            f"text tensors at {state.flags.value_bytes} B a value",
            "the checkpoint's tensor shapes",
            Basis.MIRRORED,
        ),
        Allocation(
            "KV cache at start",
            start,
            LedgerPhase.POOL,
            "layers",
            f"one segment of {size.segment_bytes:,} B a layer until a request comes; "
            f"at most {format_bytes(max(0, state.cap))}",
            "farspan kv/sizing.py: CacheSize.start_bytes",
            Basis.MIRRORED,
        ),
        Allocation(
            f"KV cache of {request.concurrency} x {request.context:,} tokens",
            max(0, state.held - start),
            LedgerPhase.RUNTIME,
            "tokens in full layers, a chunk and a step in chunked-local ones",
            f"{' + '.join(map(str, size.pages(request.context)))} pages of {size.page_tokens} tokens a request, "
            f"in whole segments, on top of those at start",
            "farspan kv/sizing.py: CacheSize.pages",
            Basis.MIRRORED,
        ),
        Allocation(
            "Step activations and repeated keys",
            state.working,
            LedgerPhase.RUNTIME,
            "--max-num-batched-tokens",
            f"{state.flags.step_tokens:,} tokens, and their keys and values for every query head",
            "counted from the layer sizes",
            Basis.ASSUMED,
        ),
    )
    return MemoryLedger(lines, request.gpu.memory_bytes)
