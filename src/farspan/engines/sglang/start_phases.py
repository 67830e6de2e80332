"""How long the phases of a start of SGLang take, and what it prints meanwhile. It compiles nothing by default."""

from __future__ import annotations

from farspan.engines.engine import StartFigure, StartSeconds

START_SECONDS = StartSeconds(
    engine=37.0,
    compile=0.0,
    profile=5.0,
    graphs=30.0,
    basis="the other phases as one start of Scout on 8x H200 took",
)
START_FIGURES = (
    StartFigure("full_layer_tokens", "tokens of full layers", "full_layer_tokens"),
    StartFigure("swa_layer_tokens", "tokens of window layers", "swa_layer_tokens"),
    StartFigure("max_total_num_tokens", "tokens of the KV pool", "max_total_num_tokens"),
    StartFigure("max_running_requests", "requests at once", "max_running_requests"),
    StartFigure("context_len", "longest request, tokens", "context_len"),
    StartFigure("free_when_ready_gib", "free memory when ready, GiB", "available_gpu_mem"),
)
