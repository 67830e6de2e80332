"""Every figure in the README and on the pages under docs/ is what its command prints today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    page
    for page in (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")))
    if "$ farspan plan" in page.read_text("utf-8")
]


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh", DOCS / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_pages_to_check() -> None:
    assert {"README.md", "kv-cost.md", "longest-context.md", "planner-peers.md"} <= {
        page.name for page in PAGES
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_shows_what_the_command_prints(page: Path, refresh: ModuleType) -> None:
    text = page.read_text("utf-8")
    assert refresh.refreshed(text) == text


def test_a_stale_figure_is_noticed(refresh: ModuleType) -> None:
    page = "```console\n$ farspan plan --help | head -1\nUsage: something else\n```\n"
    fresh = refresh.refreshed(page)
    assert fresh != page
    assert "MODEL" in fresh
    assert refresh.refreshed(fresh) == fresh
