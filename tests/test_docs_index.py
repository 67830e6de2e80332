"""The index of the pages names every page by its own title."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_every_page_is_in_the_index_by_its_title() -> None:
    listed = dict(re.findall(r"^- \[(.+)\]\(([\w-]+\.md)\)$", (DOCS / "README.md").read_text(), re.MULTILINE))
    titles = {
        page.read_text().partition("\n")[0].lstrip("# "): page.name
        for page in DOCS.glob("*.md")
        if page.name != "README.md"
    }
    assert listed == titles


def test_links_between_pages_lead_somewhere() -> None:
    for page in (DOCS.parent / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
