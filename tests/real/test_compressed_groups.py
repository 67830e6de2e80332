"""DeepSeek V4's caches: farspan's groups beside those of the installed vLLM's own code."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from farspan.engines.vllm.compressed import compressed_layout
from farspan.engines.vllm.versions import rules_for
from farspan.models.config import load_model
from farspan.models.spec import ModelSpec

pytestmark = pytest.mark.engines

VERSION = "0.32.0"  # of constraints-engines.txt


CASES = [(13_000, 2048), (200_000, 8192), (1_000_000, 32_768)]  # tokens, tokens in flight
AVAILABLE = 50 * 10**9


@pytest.fixture(scope="module")
def model() -> ModelSpec:
    return load_model("deepseek-v4-flash")


@pytest.fixture(scope="module")
def vllms(engines_python: Path, model: ModelSpec) -> dict[tuple[int, int], Any]:
    """What vLLM makes of each case."""
    rates = json.dumps([layer.tokens_per_entry for layer in model.layers])
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    environment.pop("PYTHONPATH", None)
    script = Path(__file__).with_name("vllm_groups.py")
    done = subprocess.run(
        [engines_python, script, rates, json.dumps(CASES), str(AVAILABLE)],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()[-len(CASES) :]), strict=True))


@pytest.mark.parametrize(("tokens", "in_flight"), CASES)
def test_groups_and_needs_are_vllms(
    vllms: dict[tuple[int, int], Any], model: ModelSpec, tokens: int, in_flight: int
) -> None:
    own = vllms[tokens, in_flight]
    layout = compressed_layout(model, rules_for(VERSION)[0])
    assert sorted([len(one.layers), one.bytes_per_block] for one in layout.groups) == sorted(own["groups"])
    assert layout.bytes_per_block == own["block"]
    assert layout.needed_bytes(tokens, in_flight) == own["needed"]
    blocks = layout.num_blocks(AVAILABLE)
    assert layout.concurrency(blocks, tokens, in_flight) == pytest.approx(own["concurrency"], rel=1e-12)
