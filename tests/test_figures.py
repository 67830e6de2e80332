"""The tables and charts of the pages are those of the measurements in docs/data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def check() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docs" / "figures.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pages_show_what_was_measured() -> None:
    done = check()
    assert done.returncode == 0, done.stdout + done.stderr
