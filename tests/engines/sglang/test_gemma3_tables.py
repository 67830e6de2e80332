"""Gemma 3's RoPE tables on SGLang: scaled as the config says before 0.5.10, and never since."""

from __future__ import annotations

from pathlib import Path

import pytest

from farspan.models.config import load_model
from planned import plan_on

_CONFIG = Path(__file__).parents[3] / "benchmarks" / "rehearsals" / "gemma-3-27b.json"
_POSITIONS = 131_072


@pytest.mark.parametrize(("version", "factor"), [("0.5.9", 8), ("0.5.10", 1), ("0.5.16", 1)])
def test_full_layers_lost_their_scaling(version: str, factor: int) -> None:
    model = load_model(str(_CONFIG), allow_network=False)
    plan = plan_on("sglang", version, model, "8xH200", _POSITIONS - 4096)
    (line,) = (line for line in plan.ledger.allocations if line.name == "RoPE tables")
    values = 128 * (factor + 1) * _POSITIONS
    # The table that is as long as the model grows to the context and a margin, which is less.
    assert line.bytes == values * 4
    assert any("RoPE scaling" in warning for warning in plan.warnings) == (factor == 1)
