"""The wings of measurement import downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import farspan.measurement

MEASUREMENT = Path(farspan.measurement.__file__).parent
BELOW = {
    "http": {"http"},
    "runs": {"http", "runs"},
    "observe": {"http", "runs", "observe"},
    "analysis": {"http", "runs", "analysis"},
    "imports": {"http", "runs", "imports"},
}


@pytest.mark.parametrize("wing", sorted(BELOW))
def test_a_wing_imports_from_those_below_it(wing: str) -> None:
    for path in (MEASUREMENT / wing).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("farspan.measurement."):
                other = (node.module or "").split(".")[2]
                assert other in BELOW[wing], f"{path.name} imports {node.module}"


def test_every_folder_shows_about_a_dozen_files() -> None:
    for folder in (MEASUREMENT, *(MEASUREMENT / wing for wing in BELOW)):
        assert len(list(folder.glob("*.py"))) <= 15, folder
