"""How long the phases of a start of SGLang take, and what it prints meanwhile. It compiles nothing by default."""

from __future__ import annotations

from farspan.engines.engine import FigureKind, StartFigure, StartSeconds

START_SECONDS = StartSeconds(
    engine=37.0,
    compile=0.0,
    profile=5.0,
    graphs=30.0,
    basis="the other phases as one start of Scout on 8x H200 took",
)
# What the tokens of the pools rest on: all that is taken before them.
_POOL_LINES = ("CUDA context", "Other load-time buffers", "KV pool")
START_FIGURES = (
    StartFigure(
        "weights_gib",
        "weights, GiB a GPU",
        "",
        ledger=("Weights", "RoPE tables", "Other load-time buffers"),
    ),
    StartFigure(
        "full_layer_tokens", "tokens of full layers", "full_layer_tokens", FigureKind.ROOM, _POOL_LINES
    ),
    StartFigure(
        "swa_layer_tokens", "tokens of window layers", "swa_layer_tokens", FigureKind.ROOM, _POOL_LINES
    ),
    StartFigure(
        "max_total_num_tokens", "tokens of the KV pool", "max_total_num_tokens", FigureKind.ROOM, _POOL_LINES
    ),
    StartFigure("kv_pool_gib", "KV pools, GiB a GPU", "SWAKVPool mem usage", ledger=_POOL_LINES),
    StartFigure(
        "free_after_pools_gib",
        "free memory after the pools, GiB",
        "Memory pool end avail mem",
        ledger=(*_POOL_LINES, "Request-to-token table"),
    ),
    StartFigure("max_running_requests", "requests at once", "max_running_requests", FigureKind.SETTING),
    StartFigure("context_len", "longest request, tokens", "context_len", FigureKind.SETTING),
    StartFigure("graphs_gib", "CUDA graphs, GiB a GPU", "", ledger=("CUDA graphs",)),
    StartFigure(
        "free_when_ready_gib",
        "free memory when ready, GiB",
        "available_gpu_mem",
        ledger=(*_POOL_LINES, "CUDA graphs", "Input buffers of eager steps", "Kernels warmed up"),
    ),
)
