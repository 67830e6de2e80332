"""How long the phases of a start of SGLang take. It compiles nothing by default."""

from __future__ import annotations

from farspan.engines.engine import StartSeconds

START_SECONDS = StartSeconds(
    engine=37.0,
    compile=0.0,
    profile=5.0,
    graphs=30.0,
    basis="the other phases as one start of Scout on 8x H200 took",
)
