"""Reports of plans by themselves: what the planner printed, in every shape it prints, and in a real browser."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.cli.main import group
from farspan.errors import FarspanError, InputError
from farspan.reports.plan_report import build_plan_report
from farspan.reports.plan_series import load_plans
from farspan.reports.render import render_markdown
from farspan.reports.write_report import Format, ReportOptions, render, write_report
from farspan.sizes import format_bytes, format_seconds
from report_runs import scout_results, write_engine_run

SCOUT = ("llama-4-scout", "--gpus", "8xH200")
HOSTILE = "<script>document.title='owned'</script> | **b** `c` \n# h\n {{ 7*7 }}"


def plan(path: Path, *arguments: str) -> dict[str, Any]:
    """Write what `farspan plan --json` prints, and return it."""
    outcome = CliRunner().invoke(group, ["plan", *arguments, "--offline", "--json"], catch_exceptions=False)
    assert outcome.exit_code in (0, 3), outcome.output
    path.write_text(outcome.output)
    return json.loads(outcome.output)


def test_a_sweep_has_a_row_for_every_context_of_every_engine(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    printed = plan(path, *SCOUT, "--contexts", "128k,1M,10M")
    rows = list(csv.DictReader(io.StringIO(render([path], Format.CSV))))
    assert len(rows) == len(printed["points"]) == 9
    by_key = {(row["engine"].split()[0], int(row["context"])): row for row in rows}
    for point in printed["points"]:
        name = {"vllm": "vLLM", "sglang": "SGLang", "builtin": "built-in"}[point["engine"]]
        row = by_key[name, point["context"]]
        assert row["fits"] == str(point["fits"])
        assert row["reason"] == point["reason"]
        if not point.get("refused"):
            assert float(row["planned_ttft_s"]) == point["ttft_s"]["expected"]
            assert float(row["floor_ttft_s"]) == point["ttft_s"]["floor"]
            assert float(row["planned_itl_s"]) == point["itl_s"]["expected"]
            assert int(row["longest_tokens"]) == point["capacity_tokens"]
            assert float(row["kv_room_bytes"]) == pytest.approx(point["available_kv_gib"] * 2**30, rel=1e-4)


def test_what_does_not_fit_says_why_and_what_would(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    printed = plan(path, *SCOUT, "--engine", "vllm", "--context", "10M", "--concurrency", "4")["engines"][
        "vllm"
    ]
    (one,) = load_plans([path])
    assert not one.fits
    data = build_plan_report([one])
    assert not data.good
    claim = data.sections[0].claim
    assert "8x H200, vLLM" in claim
    assert f"4 x 10M tokens do not fit: {printed['reason']}" in claim
    text = render_markdown(data)
    assert "    " + " ".join(printed["flags"]) in text
    assert "    " + " ".join(printed["fix"]["flags"]) in text
    assert [change.change for change in one.changes] == [lever["change"] for lever in printed["levers"]]
    for lever in printed["levers"]:
        assert format_bytes(lever["bytes_freed"]) in text
    gpu_lines = [line for line in printed["ledger"] if line["where"] == "gpu"]
    assert len(gpu_lines) < len(printed["ledger"])
    assert sum(count for count, _ in one.bases.values()) == len(gpu_lines)
    assert sum(size for _, size in one.bases.values()) == sum(line["bytes"] for line in gpu_lines)


@pytest.mark.parametrize(
    ("asked", "arguments", "words"),
    [
        ("concurrency", ("--context", "1M"), "{found} x 1M tokens fit, and no more"),
        ("context", (), "tokens fit, and no longer context does"),
        (
            "gpus",
            ("--context", "1M", "--concurrency", "32"),
            "32 x 1M tokens fit, on no fewer than {found} GPUs",
        ),
    ],
)
def test_a_search_says_what_it_found(
    tmp_path: Path, asked: str, arguments: tuple[str, ...], words: str
) -> None:
    path = tmp_path / "found.json"
    model, _, gpus = SCOUT
    gpus = "H200" if asked == "gpus" else gpus
    printed = plan(path, model, "--gpus", gpus, "--engine", "vllm", *arguments, "--find", asked)
    (one,) = load_plans([path])
    assert (one.find, one.found) == (asked, printed["engines"]["vllm"]["value"])
    assert words.format(found=one.found) in build_plan_report([one]).sections[0].claim
    assert one.fits


def test_several_kinds_of_gpus_are_series_named_by_them(tmp_path: Path) -> None:
    path = tmp_path / "gpus.json"
    plan(
        path, "llama-4-scout", "--gpus", "H200,B200", "--engine", "vllm", "--context", "1M", "--concurrency", "32",
        "--find", "gpus",
    )  # fmt: skip
    first, second = load_plans([path])
    assert (first.key, second.key) == ("a", "b")
    assert "H200" in first.name
    assert "B200" in second.name


def test_the_page_is_written_beside_the_plan_and_never_over_it(tmp_path: Path) -> None:
    path = tmp_path / "scout.json"
    plan(path, *SCOUT, "--engine", "vllm", "--context", "10M")
    before = path.read_bytes()
    files = write_report([path])
    assert files.html == tmp_path / "scout.html"
    assert files.markdown == tmp_path / "scout.md"
    with pytest.raises(InputError, match="is the plan itself"):
        write_report([path], path)
    with pytest.raises(InputError, match="is the plan itself"):
        write_report([path], formats=(Format.JSON,))
    assert path.read_bytes() == before


def test_a_plan_beside_a_run_is_the_runs(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    printed = plan(path, *SCOUT, "--engine", "vllm", "--contexts", "100k,1M")
    write_engine_run(tmp_path / "run", scout_results(contexts=(100_000,)))
    rows = list(csv.DictReader(io.StringIO(render([tmp_path / "run", path], Format.CSV))))
    assert {row["context"] for row in rows} == {"100000"}
    expected = printed["points"][0]["ttft_s"]["expected"]
    assert {float(row["planned_ttft_s"]) for row in rows} == {expected}
    with pytest.raises(InputError, match="several are given"):
        render([tmp_path / "run", path], Format.CSV, ReportOptions(plan=path))
    files = write_report([path, tmp_path / "run"])
    assert files.html == tmp_path / "run" / "report.html"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "cannot be read as a plan"), ("[]", "is not a JSON object"), ('{"model": "x"}', "names no engine")],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        load_plans([path])


def test_options_of_runs_are_refused_for_plans(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan(path, *SCOUT, "--engine", "vllm", "--context", "1M")
    for options in (ReportOptions(compare=True), ReportOptions(logs=(path,)), ReportOptions(plan=path)):
        with pytest.raises(InputError, match="only plans are given"):
            render([path], Format.HTML, options)
    with pytest.raises(InputError, match="too many"):
        load_plans([path] * 7)


_KEYS = st.sampled_from(
    (
        "engine", "engines", "points", "context", "concurrency", "fits", "refused", "refusal", "reason", "ttft_s",
        "expected", "floor", "itl_s", "flags", "env", "levers", "fix", "changes", "ledger", "bytes", "where", "basis",
        "by_gpu", "find", "value", "format_version", "vllm", "version", "model", "gpu", "gpus", "tp", "notes",
        "warnings", "available_kv_gib"
    )
)  # fmt: skip
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.just("gpu"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=8),
    max_leaves=40,
)


@given(document=st.dictionaries(_KEYS, _JSON, max_size=10))
@settings(max_examples=150)
def test_any_json_is_a_plan_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(document))
    try:
        data = build_plan_report(load_plans([path]))
    except FarspanError:
        return
    assert render_markdown(data).startswith("# farspan plan: ")
    data.draw_charts()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a sweep, of one context that does not fit, and of a plan with hostile strings."""
    folder = tmp_path_factory.mktemp("plans")
    plan(folder / "sweep.json", *SCOUT, "--contexts", "128k,1M,10M")
    single = plan(folder / "single.json", *SCOUT, "--context", "10M", "--concurrency", "4")
    for key in ("reason", "warnings", "notes", "flags", "version"):
        value = single["engines"]["vllm"][key]
        single["engines"]["vllm"][key] = [HOSTILE] if isinstance(value, list) else HOSTILE
    for line in (*single["engines"]["vllm"]["levers"], *single["engines"]["vllm"]["ledger"]):
        line["name" if "name" in line else "change"] = HOSTILE
    (folder / "hostile.json").write_text(json.dumps(single | {"model": HOSTILE, "gpu": HOSTILE}))
    plan(folder / "single.json", *SCOUT, "--context", "10M", "--concurrency", "4")
    written = {name: write_report([folder / f"{name}.json"]).html for name in ("sweep", "single", "hostile")}
    return {name: path for name, path in written.items() if path is not None}


@pytest.fixture
def page(browser: Any) -> Any:
    """A page of the browser that keeps what is asked for and what went wrong."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.asked, page.said = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    yield page
    context.close()


def test_the_sweeps_values_are_on_the_page(page: Any, pages: dict[str, Path]) -> None:
    page.goto(pages["sweep"].as_uri())
    printed = json.loads(pages["sweep"].with_suffix(".json").read_text())
    keys = {"vllm": "a", "sglang": "b", "builtin": "c"}
    for point in printed["points"]:
        text = page.locator(f"#plan-{keys[point['engine']]}-{point['context']}").inner_text()
        if point.get("refused"):
            assert "not planned" in text
        else:
            assert format_seconds(point["ttft_s"]["expected"]) in text
            assert format_seconds(point["ttft_s"]["floor"]) in text
            assert f"{point['capacity_tokens']:,}" in text
    for anchor in ("ttft", "prefill", "itl", "memory"):
        assert page.locator(f"#{anchor} .plot svg").count() == 1
    assert page.asked == [pages["sweep"].as_uri()]
    assert page.said == []


@pytest.mark.parametrize("name", ["sweep", "single", "hostile"])
def test_axe_finds_nothing_and_hostile_strings_stay_inert(
    page: Any, pages: dict[str, Path], name: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.goto(pages[name].as_uri())
    assert page.title().startswith("farspan plan: ")
    assert page.locator("main script, main img").count() == 0
    if name == "hostile":
        assert page.locator("#summary h1").inner_text().startswith("<script>")
        assert "{{ 7*7 }}" in page.locator("#flags").inner_text()
    violations = axe.Axe().run(page).response["violations"]
    assert [violation["id"] for violation in violations] == []
    assert page.asked == [pages[name].as_uri()]
    assert page.said == []


def test_an_engine_that_cannot_plan_it_is_a_line_not_a_claim(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan(path, *SCOUT, "--context", "1M")
    page = build_plan_report(load_plans([path]))
    assert [section.series.engine.split()[0] for section in page.planned] == ["vLLM", "SGLang"]
    assert [section.name for section in page.refused] == ["built-in engine"]
    assert all(len(figures) == 2 for _, figures in page.figures)
    text = render_markdown(page)
    assert text.count("**") == 4, "two claims"
    assert "built-in engine is not planned: the built-in engine runs on one GPU; plan it with --tp 1." in text
    plan(path, "llama-4-scout", "--gpus", "8xH200", "--context", "1M", "--engine", "vllm")
    assert build_plan_report(load_plans([path])).refused == ()


def test_a_narrow_page_keeps_its_columns(browser: Any, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 900})
    page = context.new_page()
    path = tmp_path / "plan.json"
    plan(path, "llama-3.1-8b", "--gpus", "1xH200", "--context", "100k")
    page.goto(str(write_report([path]).html.as_uri()))
    widths = page.eval_on_selector_all(
        ".pairs thead th.words", "cells => cells.map(cell => cell.getBoundingClientRect().width)"
    )
    assert len(widths) == 3
    assert min(widths) >= 100
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    context.close()


def test_what_explains_a_plan_is_a_note_beside_its_warnings(tmp_path: Path) -> None:
    path = tmp_path / "scout.json"
    engine = plan(path, *SCOUT, "--context", "10M", "--engine", "vllm")["engines"]["vllm"]
    text = render([path], Format.MARKDOWN)
    warnings, notes = text.split("## Mind")[1].split("## Notes")
    assert len(engine["warnings"]) > 0
    assert warnings.count("\n- ") == len(engine["warnings"])
    assert notes.split("\n## ")[0].count("\n- ") == len(engine["notes"]) == 2
    assert "block tables alone" in warnings
    assert "The figures are for the whole server" in notes
    html = render([path], Format.HTML)
    assert html.index('<section id="warnings">') < html.index('<section id="notes">')
    assert json.loads(render([path], Format.JSON))["plans"][0]["notes"] == engine["notes"]
