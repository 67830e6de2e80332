"""DeepSeek V4's caches: farspan's groups beside those of the installed vLLM's own code."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from farspan.engines.vllm.compressed import compressed_layout
from farspan.engines.vllm.versions import rules_for
from farspan.models.config import load_model

pytestmark = pytest.mark.engines

VERSION = "0.32.0"  # of constraints-engines.txt


@pytest.mark.parametrize(("tokens", "in_flight"), [(13_000, 2048), (200_000, 8192), (1_000_000, 32_768)])
def test_groups_and_needs_are_vllms(engines_python: Path, tokens: int, in_flight: int) -> None:
    model, available = load_model("deepseek-v4-flash"), 50 * 10**9
    rates = json.dumps([layer.tokens_per_entry for layer in model.layers])
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    environment.pop("PYTHONPATH", None)
    script = Path(__file__).with_name("vllm_groups.py")
    done = subprocess.run(
        [engines_python, script, rates, str(tokens), str(in_flight), str(available)],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    own = json.loads(done.stdout.splitlines()[-1])
    layout = compressed_layout(model, rules_for(VERSION)[0])
    assert sorted([len(one.layers), one.bytes_per_block] for one in layout.groups) == sorted(own["groups"])
    assert layout.bytes_per_block == own["block"]
    assert layout.needed_bytes(tokens, in_flight) == own["needed"]
    blocks = layout.num_blocks(available)
    assert layout.concurrency(blocks, tokens, in_flight) == pytest.approx(own["concurrency"], rel=1e-12)
