"""The plug-in against the pools, configurators and hook registries of real SGLang, both versions, on the CPU.

Each version runs in a process of its own (`plugin_process.py`); its package is unpacked as for `test_oracle.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farspan.integrations.sglang.adapters import ADAPTERS

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.engines


def play(version: str, seed: int, steps: int = 250) -> Any:
    parent = Path(os.environ.get("FARSPAN_SGLANG_SOURCE", ROOT))
    script = Path(__file__).parent / "plugin_process.py"
    command = [sys.executable, "-W", "ignore", str(script), version, str(parent / f".sglang-{version}")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*command, str(seed), str(steps)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("version", sorted(ADAPTERS))
def test_rows_keep_sglangs_identity_and_their_contents(version: str, seed: int) -> None:
    seen = play(version, seed)
    counts = seen["counts"]
    assert min(counts[name] for name in ("allocated", "extended", "refused", "freed", "idle")) > 0
    assert seen["shape"] == [13, 40_000]
    assert counts["mapped_after"] == seen["bytes"]["idle"] < 13 * 40_000 * 4 / 10


@pytest.mark.parametrize("version", sorted(ADAPTERS))
def test_every_seam_has_the_shape_it_was_written_against(version: str) -> None:
    assert play(version, 1, 1)["shapes"] == dict(ADAPTERS[version].shapes)


@pytest.mark.parametrize("version", sorted(ADAPTERS))
def test_without_the_option_the_pool_is_sglangs_and_what_cannot_be_combined_is_refused(version: str) -> None:
    seen = play(version, 1, 1)
    assert seen["stock"] == "ReqToTokenPool"
    assert "request table of the kind ReqToTokenPool, which is not its own" in seen["stock_refused"]
    assert set(seen["refused"]) == {"speculative_algorithm", "disaggregation_mode", "dcp_size"}
    for name, text in seen["refused"].items():
        assert f"does not work with --{name.replace('_', '-')}" in text
