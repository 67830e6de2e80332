"""How long the phases of a start of the built-in engine take."""

from __future__ import annotations

from farspan.engines.engine import StartSeconds

START_SECONDS = StartSeconds(engine=4.0, compile=0.0, profile=0.0, graphs=0.0, basis="the rest assumed")
