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


SEEDS = [1, 2, 3]


@pytest.fixture(scope="module", params=sorted(ADAPTERS))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def seen(version: str) -> Any:
    """What all tests of a version look at, from one process: SGLang takes long to import."""
    script = Path(__file__).parent / "plugin_process.py"
    return json.loads(run_process(version, script, json.dumps(SEEDS), "250", timeout_s=600))


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_keep_sglangs_identity_and_their_contents(seen: Any, seed: int) -> None:
    played = seen["played"][str(seed)]
    counts = played["counts"]
    assert min(counts[name] for name in ("allocated", "extended", "refused", "freed", "idle")) > 0
    assert played["shape"] == [13, 40_000]
    assert counts["mapped_after"] == played["idle"] < 13 * 40_000 * 4 / 10


def test_every_seam_has_the_shape_it_was_written_against(seen: Any, version: str) -> None:
    assert seen["shapes"] == dict(ADAPTERS[version].shapes)


def test_options_are_what_sglang_makes_of_them(seen: Any, version: str) -> None:
    assert seen["policy"] == {"0.5.16": "lru", "0.5.23": "priority"}[version]


def test_without_the_option_the_pool_is_sglangs_and_what_cannot_be_combined_is_refused(seen: Any) -> None:
    assert seen["stock"] == "ReqToTokenPool"
    assert "request table of the kind ReqToTokenPool, which is not its own" in seen["stock_refused"]
    assert set(seen["refused"]) == {"speculative_algorithm", "disaggregation_mode", "dcp_size"}
    for name, text in seen["refused"].items():
        assert f"does not work with --{name.replace('_', '-')}" in text
