"""The linear prefix tree beside SGLang's own, under one random load, on SGLang's own allocators and rows.

Each run is a process of its own (`tree_process.py`); after every step SGLang's identity of each pool is checked, the
tree's own counts, and that every request reads its own KV. Without memory pressure hits and free slots are the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module", params=["0.5.16", "0.5.23"])
def runs(request: pytest.FixtureRequest) -> Any:
    """What came of one load, in all settings.

    SGLang 0.5.23's tree needs msgspec, which the engines' environment has.
    """
    parent = Path(os.environ.get("FARSPAN_SGLANG_SOURCE", ROOT))
    engines = os.environ.get("FARSPAN_ENGINES_PYTHON", str(ROOT / ".venv-engines" / "bin" / "python"))
    python = sys.executable if request.param == "0.5.16" else engines
    script = Path(__file__).parent / "tree_process.py"
    done = subprocess.run(
        [python, "-W", "ignore", str(script), str(parent / f".sglang-{request.param}"), "11", "500"],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_hits_free_slots_and_rows_are_those_of_sglangs_tree(runs: Any) -> None:
    spacious = [run for run in runs if not run["pressure"]]
    assert len(spacious) == 4
    for run in spacious:
        assert run["hits"][0] == run["hits"][1] > 0
        counts = run["counts"]
        assert min(counts[name] for name in ("admitted", "chunks", "decoded", "finished", "aborted")) > 0
        assert counts["evictions"] == 0
        assert (counts["windows_moved"] > 0) == run["window"]


def test_under_pressure_everything_read_is_right_and_as_much_is_found(runs: Any) -> None:
    pressed = [run for run in runs if run["pressure"]]
    assert len(pressed) == 4
    assert min(run["counts"]["evictions"] for run in pressed) > 0
    sglangs, ours = (sum(run["hits"][which] for run in pressed) for which in (0, 1))
    assert ours > 0.9 * sglangs > 0
