"""The settle loop: the flags as given first, then the first cure that serves."""

from __future__ import annotations

from collections.abc import Iterator

from farspan.planner.settle import settle


def cures(*names: str, made: list[str]) -> Iterator[str]:
    for name in names:
        made.append(name)
        yield name


def test_what_serves_as_given_is_not_changed() -> None:
    made: list[str] = []
    assert settle("given", cures("one", made=made), serves=lambda name: True) == "given"
    assert made == []


def test_the_first_cure_that_serves_is_taken_and_no_other_made() -> None:
    made: list[str] = []
    chosen = settle("given", cures("one", "two", "three", made=made), serves=lambda name: name == "two")
    assert chosen == "two"
    assert made == ["one", "two"]


def test_where_none_serves_the_last_is_shown_only_if_it_improves() -> None:
    made: list[str] = []
    never = cures("one", "two", made=made)
    assert settle("given", never, serves=lambda name: False) == "given"
    assert made == ["one", "two"]
    again = cures("one", "two", made=made)
    assert settle("given", again, serves=lambda name: False, improves=lambda last: last == "two") == "two"
    assert settle("given", (), serves=lambda name: False, improves=lambda last: True) == "given"
