"""The rules of the house that a program can check: imports, engines by name, names of classes, lengths of files."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from farspan.engines.registry import engine_names

SOURCE = Path(__file__).resolve().parents[1] / "src"
MOST_LINES = 400
# Who may import whom: a package imports its own row and those below it. What stands in no row is `farspan` itself.
LAYERS = (
    ("cli",),
    ("verbs",),
    ("launch", "measurement", "diagnosis", "reports", "proof"),
    ("engines", "integrations"),
    ("planner", "prompts", "builtin"),
    ("models", "hardware", "kv"),
    ("errors", "sizes", "value_hash", "escape_terminal"),
)
# Where names of engines stand for something else: the engines themselves, and tools whose result files are read.
EXEMPT = ("farspan.engines.", "farspan.integrations.", "farspan.measurement.imports.")


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of src, by its name, parsed."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that exist for type checkers alone."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _walk(other)
        else:
            yield from _walk(child)


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of farspan it imports, at its head or in its functions."""
    modules = trees()
    found: dict[str, set[str]] = {name: set() for name in modules}
    for name, tree in modules.items():
        for node in _walk(tree):
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                members = [f"{node.module}.{alias.name}" for alias in node.names]
                named = [member if member in modules else node.module for member in members]
            else:
                continue
            found[name].update(module for module in named if module in modules and module != name)
    return found


def _is_package(module: str) -> bool:
    return (SOURCE / module.replace(".", "/") / "__init__.py").is_file()


def _layer(module: str) -> int | None:
    part = module.split(".")[1] if "." in module else ""
    return next((height for height, names in enumerate(LAYERS) if part in names), None)


def test_no_module_imports_itself_through_others() -> None:
    between = {
        name: {other for other in others if not _is_package(other)}
        for name, others in imports().items()
        if not _is_package(name)
    }
    try:
        TopologicalSorter(between).prepare()
    except CycleError as error:
        pytest.fail("an import circle: " + " -> ".join(error.args[1]))


def test_imports_point_down() -> None:
    unplaced = {name for name in trees() if "." in name and name.count(".") == 1 and _layer(name) is None}
    assert unplaced <= {"farspan.__main__"}, "say in LAYERS who may import them"
    up = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if (own := _layer(name)) is not None and (its := _layer(other)) is not None and its < own
    ]
    assert up == []


def test_the_builtin_engine_needs_the_cache_and_models_alone() -> None:
    allowed = {"builtin", "kv", "models", *LAYERS[-1]}
    found = {
        f"{name} imports {other}"
        for name, others in imports().items()
        if name.startswith("farspan.builtin")
        for other in others
        if "." in other and other.split(".")[1] not in allowed
    }
    assert found == set()


def test_only_engines_know_engines_by_name() -> None:
    """What differs by engine is asked of its object: no table by name, no comparison with a name."""
    names = set(engine_names())
    found = []
    for module, tree in trees().items():
        if module.startswith(EXEMPT):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                words = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            elif isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                sides += [
                    part
                    for side in sides
                    if isinstance(side, ast.Tuple | ast.Set | ast.List)
                    for part in side.elts
                ]
                words = {side.value for side in sides if isinstance(side, ast.Constant)}
            else:
                continue
            if words & names:
                found.append(f"{module}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert found == []


def test_no_two_classes_have_one_name() -> None:
    places = defaultdict(list)
    for module, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in SOURCE.rglob("*.py")
    }
    assert not {path for path, lines in lengths.items() if lines > MOST_LINES}
