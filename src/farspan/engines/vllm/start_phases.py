"""How long the phases of a start of vLLM take, and what it prints meanwhile."""

from __future__ import annotations

from farspan.engines.engine import FigureKind, StartFigure, StartSeconds

START_SECONDS = StartSeconds(
    engine=37.0,
    compile=60.0,
    profile=22.0,
    graphs=13.0,
    basis="the other phases as one start of Scout on 8x H200 took",
)
START_FIGURES = (
    StartFigure(
        "weights_gib",
        "weights, GiB a GPU",
        "Model loading took",
        ledger=("weights", "RoPE tables", "rounding by torch's allocator"),
    ),
    StartFigure(
        "peak_activation_gib",
        "peak of the largest step, GiB a GPU",
        "",
        ledger=(
            "activations of",
            "sampler of",
            "buffers of the experts",
            "images through",
            "vision tower at",
        ),
    ),
    StartFigure(
        "outside_torch_gib",
        "outside torch, GiB a GPU",
        "",
        ledger=("kernels and workspaces outside torch", "collectives"),
    ),
    StartFigure("available_kv_gib", "KV memory, GiB a GPU", "Available KV cache memory", ledger=("KV pool",)),
    StartFigure(
        "kv_cache_tokens", "KV cache size, tokens", "GPU KV cache size", FigureKind.ROOM, ("KV pool",)
    ),
    StartFigure(
        "max_concurrency",
        "requests of the longest length",
        "Maximum concurrency for ",
        FigureKind.ROOM,
        ("KV pool",),
    ),
    StartFigure("max_model_len", "longest request, tokens", "", FigureKind.SETTING),
    StartFigure("graphs_gib", "CUDA graphs, GiB a GPU", "", ledger=("CUDA graphs",)),
)
