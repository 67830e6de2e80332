"""The plug-in against the pools, configurators and hook registries of real SGLang, both versions, on the CPU.

Each version runs in a process of its own (`plugin_process.py`); its package is unpacked as for `test_oracle.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farspan.integrations.sglang.adapters import ADAPTERS
from sglang_on_cpu import run_process

pytestmark = pytest.mark.engines


def play(version: str, seed: int, steps: int = 250) -> Any:
    script = Path(__file__).parent / "plugin_process.py"
    return json.loads(run_process(version, script, str(seed), str(steps), timeout_s=600))


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
