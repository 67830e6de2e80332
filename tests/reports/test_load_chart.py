"""Throughput against latency in a report: the table, the JSON, and the charts in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from farspan.measurement.runs.result import Gaps, Result
from farspan.reports.load_chart import LOAD_COLUMNS, draw_load, list_load
from farspan.reports.report_run import load_report_runs
from farspan.reports.write_report import Format, render, write_report
from report_runs import iso, write_engine_run
from samples import make_result

axe_module = pytest.importorskip("axe_playwright_python.sync_playwright")
Open = Callable[..., Any]
LEVELS = (1, 4, 16, 128)


def load_results(contexts: Iterable[int] = (10_000, 100_000), slower: float = 1.0) -> list[Result]:
    """As many requests at each concurrency as are under way: twice as many at once take half as long again."""
    results, at = [], 0.0
    for level in LEVELS:
        for context in contexts:
            gap = slower * 0.01 * level**0.3
            for repeat in range(level):
                ttft = slower * context / 50_000 * (0.5 + 0.5 * (repeat + 1))
                times = tuple(ttft + gap * token for token in range(100))
                results.append(
                    make_result(
                        context=context, repeat=repeat, prompt_tokens=context, output_tokens=100, started_at=iso(at),
                        ttft_s=ttft, itl_s=Gaps(gap, gap, gap), e2e_s=times[-1], token_times_s=times, tpot_s=gap,
                        concurrency=level, most_at_once=level,
                    )
                )  # fmt: skip
            at += max(result.e2e_s for result in results[-level:]) + 5
    return results


def engine_series(results: list[Result]) -> dict[str, dict[float, dict[str, float]]]:
    """The engine's counters before and after the first block: its one first token a tenth of a second earlier."""
    one = results[0]
    assert one.ttft_s is not None
    return {
        "engine": {
            -0.5: {"first_tokens": 7.0, "first_token_seconds": 20.0},
            one.e2e_s + 0.5: {"first_tokens": 8.0, "first_token_seconds": 20.0 + one.ttft_s - 0.1},
        }
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("load")
    results = load_results()
    write_engine_run(folder / "v", results, series=engine_series(results))
    write_engine_run(folder / "s", load_results((10_000,), slower=2.0), owner="sglang", version="0.5.16")
    return folder / "v", folder / "s"


@pytest.fixture(scope="module")
def page_of_one(runs: tuple[Path, Path]) -> Path:
    html = write_report([runs[0]], runs[0].parent / "one.html").html
    assert html is not None
    return html


@pytest.fixture(scope="module")
def page_of_both(runs: tuple[Path, Path]) -> Path:
    html = write_report(list(runs), runs[0].parent / "both.html").html
    assert html is not None
    return html


def test_the_table_and_the_json_have_every_concurrency(runs: tuple[Path, Path]) -> None:
    text = render([runs[0]], Format.MARKDOWN)
    section = text.partition("## Load: throughput")[2].partition("In brackets")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| 10")]
    assert [row[1] for row in rows] == [str(level) for level in LEVELS] * 2
    assert all(len(row) == len(LOAD_COLUMNS) for row in rows)
    one, *_, many = rows[:4]
    assert one[6:9] == ["200.0 ms", "(200.0 ms)", "(200.0 ms)"], "one value carries no p90"
    assert not any(cell.startswith("(") for cell in many[6:12])
    assert [cell.strip(" |") for cell in one[12:]] == ["100.0 ms", "100.0 ms"]
    curve = json.loads(render([runs[0]], Format.JSON))["runs"][0]["curve"]
    assert [(point["context"], point["concurrency"]) for point in curve] == [
        (context, level) for context in (10_000, 100_000) for level in LEVELS
    ]
    assert curve[0]["engine_ttft"]["late_s"] == pytest.approx(0.1)
    assert curve[1]["engine_ttft"] is None


def test_a_chart_holds_what_the_curve_holds(runs: tuple[Path, Path]) -> None:
    (run,) = load_report_runs([runs[0]])
    chart = draw_load("ttft", [run])
    assert chart is not None
    medians = {(row[1], row[2]): row[5] for row in chart.rows if row[4] == "p50"}
    assert medians["10k", "1"] == "200.0 ms"
    assert medians["100k", "128"] == "65.5 s"
    carried = [row[2] for row in chart.rows if row[4] == "p99" and row[1] == "10k"]
    assert carried == ["128"], "16 values carry no p99"
    assert [key.text for key in chart.keys] == ["10k", "100k", "p50", "p90", "p99"]
    assert chart.svg.count("data-tip=") == len(chart.rows)
    assert "100k: 1 at once 2.00 s at" in chart.alt
    assert "128 at once 65.5 s at" in chart.alt


def test_a_run_of_one_concurrency_and_one_that_was_resumed_have_no_curve(tmp_path: Path) -> None:
    one = [result for result in load_results() if result.concurrency == 16]
    write_engine_run(tmp_path / "one", one)
    (run,) = load_report_runs([tmp_path / "one"])
    assert len(list_load(run)) == 2
    assert draw_load("ttft", [run]) is None
    plain = [make_result(repeat=repeat) for repeat in range(3)]
    write_engine_run(tmp_path / "plain", plain)
    (run,) = load_report_runs([tmp_path / "plain"])
    assert list_load(run) == ()
    assert "## Load" not in render([tmp_path / "plain"], Format.MARKDOWN)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_charts_are_accessible(open_page: Open, page_of_both: Path, scheme: str) -> None:
    page = open_page(page_of_both, scheme=scheme)
    # Not the hundreds of requests: they are a table like any other.
    page.evaluate(
        "document.querySelectorAll('#charts details').forEach(d => d.open = d.closest('[id^=load]') !== null)"
    )
    found = axe_module.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    for name in ("load-ttft", "load-itl"):
        plot = page.locator(f"#{name} .plot")
        assert plot.get_attribute("role") == "img"
        assert "the median against throughput" in plot.get_attribute("aria-label")
        assert page.locator(f"#{name} table tbody tr").count() > 10
    page.set_viewport_size({"width": 400, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_values_show_under_the_arrow_keys_from_left_to_right(open_page: Open, page_of_one: Path) -> None:
    page = open_page(page_of_one)
    page.locator("#load-ttft .plot").focus()
    page.keyboard.press("Home")
    page.locator(".tip", has_text="at once").wait_for(timeout=10_000)
    first = page.locator(".tip").inner_text()
    page.evaluate("scrollBy(0, 7); dispatchEvent(new Event('scroll'))")
    assert page.locator(".tip.shown").count() == 1, "the page may still scroll to what was focused"
    page.keyboard.press("End")
    last = page.locator(".tip").inner_text()
    assert first.startswith("1 at once, 100k: TTFT p50 2.00 s")
    assert "at once, 10k: TTFT p" in last
    rates = [float(text.rpartition(", ")[2].split()[0].replace(",", "")) for text in (first, last)]
    assert rates[0] < rates[1]
    labels = page.locator("#load-ttft svg text").all_text_contents()
    assert set(map(str, LEVELS)) <= set(labels), "each median says how many were at once"
    assert page.said == []


def test_a_run_is_switched_off_in_its_load_chart_alone(open_page: Open, page_of_both: Path) -> None:
    page = open_page(page_of_both)

    def shown(chart: str, key: str) -> int:
        script = f"""[...document.querySelectorAll('#{chart} svg [class*=" {key}_"]')]
            .filter(marks => marks.style.display !== 'none').length"""
        return int(page.evaluate(script))

    before = shown("load-ttft", "b")
    assert before > 0
    page.locator("#load-ttft .legend button", has_text="SGLang").click()
    assert shown("load-ttft", "b") == 0
    assert shown("load-ttft", "a") > 0
    assert shown("load-itl", "b") > 0
