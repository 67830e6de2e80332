"""SGLang's own kernels hand out the slots of the pages that elastic pools give them: see `page_kernels_process.py`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from farspan.integrations.sglang.adapters import ADAPTERS

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("version", sorted(ADAPTERS))
def test_as_many_pages_as_are_counted_are_enough_for_the_kernels(version: str) -> None:
    """Whatever requests go on from and to, where no page is needed too."""
    folder = Path(os.environ.get("FARSPAN_SGLANG_SOURCE", ROOT)) / f".sglang-{version}"
    script = Path(__file__).parent / "page_kernels_process.py"
    # The engines' Triton runs these kernels in its interpreter; older ones stop at loops of unknown length.
    command = [os.environ["FARSPAN_ENGINES_PYTHON"], str(script), version, str(folder), "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "right\n"
