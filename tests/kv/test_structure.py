"""How farspan.kv is built: imports point down and never in a circle; the front exports what it says, lazily."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import farspan.kv

ROOT = Path(farspan.kv.__file__).parent
MODULES = {
    ".".join(("farspan.kv", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
# What memory and tree may use of the modules beside them: arithmetic that depends on nothing.
PURE = {"farspan.kv.sizing", "farspan.kv.retention"}


def imports(name: str) -> set[str]:
    """Return the modules of farspan.kv that a module imports anywhere, also for types alone."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & MODULES.keys()) - {name}


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: imports(name) for name in MODULES if name != "farspan.kv"}
    assert any(graph.values())
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(("wing", "others"), [("memory", "tree"), ("tree", "memory")])
def test_the_wings_know_neither_each_other_nor_the_cache(wing: str, others: str) -> None:
    for name in MODULES:
        if name.startswith(f"farspan.kv.{wing}."):
            used = {each for each in imports(name) if not each.startswith(f"farspan.kv.{wing}")}
            assert used <= PURE, f"{name} imports {used - PURE}"


def test_files_stay_under_400_lines() -> None:
    long = {name: lines for name, path in MODULES.items() if (lines := path.read_text().count("\n")) > 400}
    assert not long


def test_the_front_exports_what_it_names() -> None:
    for name in farspan.kv.__all__:
        assert getattr(farspan.kv, name).__name__ == name
    assert sorted(farspan.kv.__all__) == farspan.kv.__all__ == dir(farspan.kv)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        farspan.kv.Nothing  # noqa: B018


def test_importing_the_front_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, farspan.kv; print(sorted({'torch', 'numpy'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
