"""The page in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import load_run
from farspan.reports.write_report import ReportOptions, write_report
from farspan.sizes import format_seconds
from report_runs import (
    FAILED_LOG,
    SGLANG_LOG,
    VLLM_LOG,
    iso,
    make_plan,
    scout_results,
    usage_series,
    write_engine_run,
)
from samples import make_result

axe_module = pytest.importorskip("axe_playwright_python.sync_playwright")
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "</style></title></svg></script>]]>&lt;b&gt; {{ 7*7 }} | **bold** [x](http://evil.example) `c` \n# h\n\x00\u202e'\""
)
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two engines with everything there is: plans, logs, series, failures."""
    folder = tmp_path_factory.mktemp("both")
    results = scout_results()
    write_engine_run(
        folder / "v", results, plan=make_plan("10M"), log=VLLM_LOG, series=usage_series(results), gpus=8
    )
    slower = [
        replace(
            r,
            status=Status.SERVER_ERROR,
            error="HTTP 500: CUDA out of memory",
            score=None,
            ttft_s=None,
            itl_s=None,
        )
        if r.context == 10_000_000
        else r
        for r in scout_results(slower=2.6)
    ]
    sweep = make_plan("100k", "1M", "10M")
    write_engine_run(folder / "s", slower, owner="sglang", version="0.5.16", plan=sweep, log=FAILED_LOG)
    files = write_report([folder / "v", folder / "s"], folder / "both.html")
    assert files.html is not None
    return files.html


@pytest.fixture(scope="module")
def single(engine_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the built-in engine's run."""
    files = write_report([engine_run], tmp_path_factory.mktemp("single"))
    assert files.html is not None
    return files.html


def test_values_on_the_page_are_those_of_the_run(open_page: Open, engine_run: Path, single: Path) -> None:
    page = open_page(single)
    results = load_run(engine_run).results
    assert len(results) == 4
    page.click("#requests summary")
    rows = page.locator("#requests tbody tr:not(.remarks)")
    assert rows.count() == len(results)
    for index, result in enumerate(sorted(results, key=lambda r: (r.context, r.depth))):
        cells = rows.nth(index).locator("td").all_inner_texts()
        assert cells[3:6] == [
            f"{result.prompt_tokens:,}",
            str(result.cached_tokens),
            str(result.output_tokens),
        ]
        assert result.itl_s is not None
        assert result.ttft_s is not None
        assert cells[6:11] == [
            format_seconds(value)
            for value in (result.ttft_s, result.itl_s.mean, result.itl_s.p50, result.itl_s.p99, result.e2e_s)
        ]
        point = page.locator(f"[id='point-a-{result.context}-{result.depth:g}']")
        assert format_seconds(result.ttft_s) in point.inner_text()
        assert "100%" in point.inner_text()
    slowest = max(r.ttft_s or 0.0 for r in results if r.context == 6000)
    claim = page.locator(".claim").inner_text()
    assert claim.startswith("recall, ")
    assert (
        f"6k tokens, first token after {format_seconds(slowest)}, needle found at both depths, KV peak "
        in claim
    )
    assert "Every request was answered correctly" in claim
    facts = page.locator("#summary .facts").inner_text()
    assert "--max-num-batched-tokens" in facts
    assert "--kv-segment-mib" in facts
    tips = page.eval_on_selector_all("#ttft svg [data-tip]", "marks => marks.map(m => m.dataset.tip)")
    assert sorted(tips) == sorted(
        f"{format_seconds(r.ttft_s or 0.0)} at {r.context // 1000}k, depth {r.depth:g}, repeat 0; cold"
        for r in results
    )
    assert page.locator("#kv-a svg path").count() > 2


@pytest.mark.parametrize(("name", "scheme"), [("both", "light"), ("single", "dark")])
def test_no_accessibility_violation(
    open_page: Open, request: pytest.FixtureRequest, name: str, scheme: str
) -> None:
    page = open_page(request.getfixturevalue(name), scheme=scheme)
    if name == "single":  # its tables are like the other's and shorter
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe_module.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_follows_the_scheme_and_fetches_nothing(
    open_page: Open, both: Path, single: Path, width: int, scheme: str
) -> None:
    for path in (both, single):
        page = open_page(path, width=width, scheme=scheme)
        assert page.asked == [path.as_uri()]
        assert page.said == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert dark == (scheme == "dark")


def test_every_chart_has_a_text_a_table_and_an_anchor(open_page: Open, both: Path) -> None:
    page = open_page(both)
    figures = page.locator("figure")
    ids = [figures.nth(i).get_attribute("id") for i in range(figures.count())]
    assert ids == [
        "ttft", "prefill", "itl", "recall", "kv-a", "memory", "requests-a", "requests-b", "startup-a", "startup-b",
    ]  # fmt: skip
    for i, name in enumerate(ids):
        figure = figures.nth(i)
        assert figure.locator(f"h3 a[href='#{name}']").count() == 1
        assert figure.locator("table").count() >= 1
        if name != "recall":  # which is a table
            assert len(figure.locator(".plot").get_attribute("aria-label") or "") > 30
            assert not figure.locator("table").is_visible()
            figure.locator("summary").click()
            assert figure.locator("table").is_visible()
    links = page.eval_on_selector_all("a[href^='#']", "links => links.map(link => link.hash.slice(1))")
    assert links
    missing = [name for name in links if page.locator(f"[id='{name}']").count() != 1]
    assert missing == []


def test_values_show_by_pointer_and_by_keyboard(open_page: Open, both: Path) -> None:
    page = open_page(both, anchor="#ttft")
    plot = page.locator("#ttft .plot")
    mark = page.locator("#ttft svg .a_cold_marks [data-tip]").first
    mark.hover(force=True)
    tip = page.locator(".tip")
    assert tip.is_visible()
    assert re.fullmatch(r"2\.\d+ s at 100k, depth 0\.1, repeat \d; cold", tip.inner_text())
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    plot.focus()
    page.keyboard.press("ArrowRight")
    first = tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text() == first
    page.keyboard.press("End")
    assert " at 10M" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_a_run_can_be_switched_off_with_the_keyboard(open_page: Open, both: Path) -> None:
    page = open_page(both)
    marks = page.locator("#ttft svg .b_cold_marks")
    assert marks.is_visible()
    button = page.locator("#ttft .legend button", has_text="SGLang")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert not marks.is_visible()
    assert page.locator("#ttft svg .a_cold_marks").is_visible()
    page.keyboard.press("Space")
    assert marks.is_visible()


def test_a_link_into_a_closed_table_opens_it(open_page: Open, both: Path) -> None:
    page = open_page(both)
    page.evaluate("document.querySelector('#itl table').id = 'deep'")
    page.evaluate("location.hash = '#deep'")
    page.wait_for_function("document.querySelector('#itl details').open")


def test_the_page_prints_on_light_paper_whole(open_page: Open, both: Path) -> None:
    page = open_page(both, scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # A4 less its margins, at 96 dots an inch.
    page.set_viewport_size({"width": 696, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= 696
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 3 <= pages <= 12


def hostile_run(folder: Path) -> Path:
    results = [
        make_result(status=Status.WRONG_ANSWER, score=0.0, error=HOSTILE, answer=HOSTILE, reply=HOSTILE),
        make_result(repeat=1, labels=("warm", HOSTILE), evidence={"warm": HOSTILE}, cached_tokens=1),
        make_result(repeat=2, status=Status.REFUSED, score=None, ttft_s=None, itl_s=None, error=HOSTILE),
    ]
    plan = make_plan("10M")
    plan["gpu"] = plan["engines"]["vllm"]["version"] = HOSTILE
    plan["engines"]["vllm"]["ttft_s"]["basis"] = plan["engines"]["vllm"]["ledger"][0]["name"] = HOSTILE
    plan["engines"]["vllm"]["flags"] = ["--x", HOSTILE]
    write_engine_run(folder, results, model=HOSTILE, version=HOSTILE, plan=plan)
    log = SGLANG_LOG.read_text() + f"[2026-11-22 20:30:00] {HOSTILE}\nTraceback (most recent call last):\n"
    log += f'  File "x.py", line 1, in x\nRuntimeError: {HOSTILE}\n'
    (folder / "server.log").write_text(log)
    return folder


def test_hostile_strings_stay_inert(open_page: Open, tmp_path: Path) -> None:
    one, two = hostile_run(tmp_path / "one"), hostile_run(tmp_path / "two")
    options = ReportOptions(title=HOSTILE)
    files = write_report([one, two], tmp_path / "out", options=options)
    assert files.html is not None
    html = files.html.read_text()
    assert not re.search("[\x00\u202e]", html)
    page = open_page(files.html)
    assert page.title().startswith("farspan report: <script>document.title='owned'</script>")
    assert page.locator("script").count() == 1
    assert page.locator("img, iframe, object, embed, base, form, link").count() == 0
    attributes = page.evaluate("[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())")
    assert not [name for name in attributes if name.startswith("on") or name == "src"]
    hrefs = page.eval_on_selector_all("[href]", "all => all.map(one => one.getAttribute('href'))")
    assert all(href.startswith("#") for href in hrefs)
    assert "document.title='owned'" in page.inner_text("h1")
    assert page.asked == [files.html.as_uri()]
    assert page.said == []


def test_the_page_forbids_scripts_that_are_not_its_own(open_page: Open, single: Path, tmp_path: Path) -> None:
    """What an escaping mistake would let in does not run either."""
    broken = tmp_path / "broken.html"
    html = single.read_text()
    evil = "<script>document.title='owned'</script><img src='http://127.0.0.1:9/x' onerror=\"document.title='owned'\">"
    broken.write_text(html.replace("</h1>", f"</h1>{evil}"))
    page = open_page(broken)
    page.wait_for_timeout(200)
    assert page.title() == "farspan report: recall"
    assert any("Content Security Policy" in message for message in page.said)


def many(count: int, contexts: int = 1) -> list[Result]:
    base = make_result(context=100_000, prompt_tokens=100_000, output_tokens=200)
    return [
        replace(
            base,
            context=100_000 + 997 * (i % contexts),
            repeat=i,
            started_at=iso(i * 0.5),
            ttft_s=2.0 + (i * 7919 % 1000) / 500,
            queue_s=(i % 10) / 20,
            e2e_s=6.0,
            most_at_once=8,
            prompt_id=str(i),
            labels=("concurrent",),
            evidence={"concurrent": "8 requests of ours were under way at a time: TTFT may hold queueing"},
        )
        for i in range(count)
    ]


def test_500_requests_are_one_small_page_that_opens_at_once(open_page: Open, tmp_path: Path) -> None:
    results = many(500)
    write_engine_run(
        tmp_path / "run", results, log=VLLM_LOG, series=usage_series(results[:40]), plan=make_plan("10M")
    )
    files = write_report([tmp_path / "run"], tmp_path)
    assert files.html is not None
    assert files.html.stat().st_size < 3 * 2**20
    assert _seconds_to_open(open_page, files.html) < 1.0


def _seconds_to_open(open_page: Open, path: Path) -> float:
    """Return the renderer's processor time from nothing to a page laid out; wall time is the machine's affair."""
    page = open_page(path)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.reload()
    page.evaluate("document.body.offsetHeight")
    measured = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    assert measured["Nodes"] > 5000
    return float(measured["TaskDuration"])


def test_20000_requests_have_a_page_of_bounded_size(open_page: Open, tmp_path: Path) -> None:
    results = many(20_000, contexts=5000)
    results[7] = replace(results[7], status=Status.CUT, ttft_s=None, error="the connection closed")
    write_engine_run(tmp_path / "run", results)
    began = time.perf_counter()
    files = write_report([tmp_path / "run"], tmp_path / "page.html")
    assert time.perf_counter() - began < 30
    assert files.html is not None
    assert files.html.stat().st_size < 3 * 2**20
    page = open_page(files.html)
    assert "19,999 of 20,000 requests were answered correctly" in page.inner_text(".claim")
    assert page.locator("#requests tbody tr:not(.remarks)").count() == 500
    assert page.locator("#contexts tbody tr:not(.remarks)").count() == 6
    assert "500 of 20,000 requests" in page.inner_text("#requests summary")


def test_a_run_without_success_and_an_empty_one_have_pages(open_page: Open, tmp_path: Path) -> None:
    failed = make_result(
        status=Status.UNREACHABLE, score=None, ttft_s=None, itl_s=None, prefill_tokens_per_s=None, prompt_tokens=None,
        cached_tokens=None, output_tokens=None, token_times_s=(), error="no server answers",
    )  # fmt: skip
    for name, results, says in (
        ("failed", [failed], "1 of 1 requests failed (1 unreachable)"),
        ("empty", [], "no request has finished"),
    ):
        write_engine_run(tmp_path / name, results)
        files = write_report([tmp_path / name])
        assert files.html is not None
        page = open_page(files.html)
        assert says in page.inner_text(".claim.bad")
        assert axe_module.Axe().run(page).violations_count == 0
        assert page.said == []
