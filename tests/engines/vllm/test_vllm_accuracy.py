"""The planner against what public vLLM servers printed at start: the table of docs/accuracy.md."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from farspan.sizes import GIB
from load_benchmark import load_benchmark

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def accuracy() -> ModuleType:
    return load_benchmark("accuracy")


def test_nine_in_ten_servers_are_within_half_a_percent_or_a_third_of_a_gibibyte(accuracy: ModuleType) -> None:
    compared = accuracy.compare_servers()
    assert len(compared) >= 40
    assert sum(one.right for one in compared) >= 0.9 * len(compared)


def test_none_is_promised_more_than_it_has_and_all_that_ran_start(accuracy: ModuleType) -> None:
    for one in accuracy.compare_servers():
        assert one.off_gib <= 0.3, one.server
        assert one.plan.starts or not one.server["tokens"], one.server


def test_weights_are_what_servers_print(accuracy: ModuleType) -> None:
    for one in accuracy.compare_servers():
        if one.server["weights_gib"]:
            assert one.plan.weights_bytes / GIB == pytest.approx(one.server["weights_gib"], rel=0.015), (
                one.server
            )


def test_the_page_holds_the_table_of_today(accuracy: ModuleType) -> None:
    compared = accuracy.compare_servers()
    page = accuracy.PAGE.read_text("utf-8")
    assert accuracy.summary(compared) in page
    for line in accuracy.table(compared):
        assert line in page


def test_the_page_shows_the_servers_left_out_with_their_errors(accuracy: ModuleType) -> None:
    left_out = accuracy.compare_left_out()
    assert {one.server["model"].split("-")[0] for one in left_out} == {"Qwen3", "gemma"}
    assert not any(one.right for one in left_out)
    page = accuracy.PAGE.read_text("utf-8")
    for line in (*accuracy.left_out_table(left_out), accuracy.overall(accuracy.compare_servers(), left_out)):
        assert line in page
    readme = (ROOT / "README.md").read_text("utf-8")
    assert (
        f"{len(accuracy.compare_servers())} of {len(accuracy.compare_servers()) + len(left_out)} public"
        in readme
    )
