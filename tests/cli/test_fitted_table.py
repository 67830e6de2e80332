"""Tables of figures on terminals of any width: no figure cut, no label lost."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from farspan.cli.fitted_table import Column, print_table
from farspan.cli.points import print_points
from farspan.measurement.runs.bench_outcome import BenchOutcome
from samples import make_result


def outcome() -> Any:
    results = tuple(
        make_result(
            context=context,
            repeat=repeat,
            ttft_s=ttft,
            prompt_tokens=context,
            labels=("concurrent", "warm"),
            evidence={"warm": "2 of 4,000 tokens", "concurrent": "4 at once"},
        )
        for repeat, (context, ttft) in enumerate([(4_000, 1.5483), (10_000_000, 2964.3)])
    )
    return BenchOutcome(Path("runs/x"), None, results, 0, 0, "")  # type: ignore[arg-type]


def shown(width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    print_points(Console(file=file, width=width, color_system=None), outcome())
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [200, 150, 113, 100, 80, 60, 40, 30])
def test_no_figure_is_cut_and_no_label_lost(width: int) -> None:
    text = shown(width)
    for words in ("4k", "10M", "1.55 s", "49 min 24 s", "concurrent, warm"):
        assert words in text
    assert "…" not in text
    assert max(map(len, (line for line in text.splitlines() if "Not shown" not in line))) <= width


def test_what_is_left_out_is_said() -> None:
    assert "Not shown" not in shown(150)
    narrow = shown(80)
    assert "Not shown for lack of room: " in narrow
    assert "end to end" in narrow.splitlines()[-1]


def test_a_terminal_without_unicode_gets_a_table_too() -> None:
    assert shown(80, "ascii").isascii()


def test_zeros_are_left_out_without_a_word() -> None:
    out = io.StringIO()
    columns = [
        Column("name", [Text("a" * 10)]),
        Column("nothing", [Text("0")], need=2),
        Column("figure", [Text("1")], need=1),
    ]
    print_table(Console(file=out, width=20), columns)
    assert "nothing" not in out.getvalue()
    assert "figure" in out.getvalue()
    assert "Not shown" not in out.getvalue()
