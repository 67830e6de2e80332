"""The page lists every rule and every kind of noise, with the severity and sources the code has."""

from __future__ import annotations

from pathlib import Path

from farspan.diagnosis.knowledge import all_rules
from farspan.diagnosis.noise import HARMLESS

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()


def test_the_page_lists_what_the_code_knows() -> None:
    rows = [line for line in PAGE.split("\n") if line.startswith("| `")]
    listed = {row.split("`")[1]: row for row in rows}
    rules = {rule.id: rule for rule in all_rules()}
    assert set(rules) <= set(listed)
    for name, rule in rules.items():
        assert f"| {rule.severity.value} | {rule.means} |" in listed[name]
        assert all(source in listed[name] for source in rule.sources)
    assert f"\n{len(rules)} failures." in PAGE
    assert all(f"- `{kind.id}`: {kind.why}" in PAGE for kind in HARMLESS)
