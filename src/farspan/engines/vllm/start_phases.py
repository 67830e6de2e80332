"""How long the phases of a start of vLLM take."""

from __future__ import annotations

from farspan.engines.engine import StartSeconds

START_SECONDS = StartSeconds(
    engine=37.0,
    compile=60.0,
    profile=22.0,
    graphs=13.0,
    basis="the other phases as one start of Scout on 8x H200 took",
)
