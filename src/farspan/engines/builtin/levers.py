"""What can be changed when a request does not fit the built-in engine, which runs on one GPU."""

from __future__ import annotations

from farspan.planner.levers import FP8_KV

LEVERS = (FP8_KV,)
