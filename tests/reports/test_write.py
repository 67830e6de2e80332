from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.cli.report import command
from farspan.errors import InputError
from farspan.measurement.http.request_status import Status
from farspan.reports.render import escape_markdown
from farspan.reports.write_report import Format, ReportOptions, render, write_report
from report_runs import FAILED_LOG, make_plan, scout_results, write_engine_run
from samples import make_result

HOSTILE = "<script>x</script> | **bold** [x](http://evil.example) `c` \n# h\n\x00\u202e'\" =1+1"


def run_command(*arguments: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    return outcome.exit_code, outcome.output


def test_the_command_writes_a_page_and_markdown_beside_the_results(tmp_path: Path) -> None:
    write_engine_run(tmp_path / "run", [make_result()])
    code, output = run_command(str(tmp_path / "run"))
    assert code == 0
    assert str(tmp_path / "run" / "report.html") in output
    assert (
        (tmp_path / "run" / "report.md")
        .read_text()
        .startswith("# farspan report: Llama-4-Scout-17B-16E-Instruct")
    )
    assert not (tmp_path / "run" / "report.csv").exists()


@pytest.mark.parametrize("suffix", ["html", "md", "csv", "json"])
def test_the_suffix_says_the_format(tmp_path: Path, suffix: str) -> None:
    write_engine_run(tmp_path / "run", [make_result()])
    code, output = run_command(str(tmp_path / "run"), "-o", str(tmp_path / "deep" / f"x.{suffix}"), "--json")
    assert code == 0
    assert list(json.loads(output).values()) == [str(tmp_path / "deep" / f"x.{suffix}")]
    text = (tmp_path / "deep" / f"x.{suffix}").read_text()
    assert text.startswith({"html": "<!doctype html>", "md": "# ", "csv": "run,engine,", "json": "{"}[suffix])
    assert not list((tmp_path / "run").glob("report.*"))


def test_formats_into_a_folder_and_to_standard_output(tmp_path: Path) -> None:
    write_engine_run(tmp_path / "run", [make_result()])
    run = str(tmp_path / "run")
    code, output = run_command(
        run, "-o", str(tmp_path / "out"), "--format", "csv", "--format", "json", "--json"
    )
    assert code == 0
    assert set(json.loads(output)) == {"csv", "json"}
    assert run_command(run, "-o", "-", "--format", "csv")[1] == (tmp_path / "out" / "report.csv").read_text()
    with pytest.raises(InputError, match="one format"):
        run_command(run, "-o", "-")
    with pytest.raises(InputError, match="is a html file"):
        run_command(run, "-o", "x.html", "--format", "csv", "--format", "json")


def test_csv_has_one_line_a_request_with_the_runs_own_values(tmp_path: Path) -> None:
    results = scout_results(contexts=(100_000,))
    write_engine_run(
        tmp_path, [*results, make_result(repeat=9, error=HOSTILE, status=Status.CUT, ttft_s=None)]
    )
    rows = list(csv.DictReader(io.StringIO(render([tmp_path], Format.CSV))))
    assert len(rows) == 7
    by_key = {(row["context"], row["depth"], row["repeat"]): row for row in rows}
    for result in results:
        row = by_key[str(result.context), str(result.depth), str(result.repeat)]
        assert float(row["ttft_s"]) == result.ttft_s
        assert float(row["e2e_s"]) == result.e2e_s
        assert row["engine"] == "vLLM 0.24.0"
        assert row["status"] == "ok"
    failed = by_key["10000", "0.5", "9"]
    assert failed["ttft_s"] == ""
    assert "\n" not in failed["error"]
    formula = make_result(error='=HYPERLINK("http://evil.example")', status=Status.CUT)
    write_engine_run(tmp_path / "formula", [formula])
    assert ",\"'=HYPERLINK" in render([tmp_path / "formula"], Format.CSV)


def test_json_holds_what_the_page_says(tmp_path: Path) -> None:
    plan = make_plan("10M")
    write_engine_run(tmp_path / "v", scout_results(), plan=plan)
    bad = [
        replace(r, status=Status.CUT, error="gone", ttft_s=None) if r.context == 10_000_000 else r
        for r in scout_results(2.0)
    ]
    write_engine_run(tmp_path / "s", bad, owner="sglang", version="0.5.16", log=FAILED_LOG)
    document = json.loads(render([tmp_path / "v", tmp_path / "s"], Format.JSON))
    assert [run["name"] for run in document["runs"]] == ["vLLM 0.24.0", "SGLang 0.5.16"]
    assert [run["good"] for run in document["runs"]] == [True, False]
    assert document["runs"][1]["findings"][0]["id"] == "sglang-pool-oom"
    assert document["runs"][1]["failures"][0] == {
        "status": "cut", "count": 6, "error": "gone", "finding": "sglang-pool-oom",
        "fix": "read the server's log, it may have died; a proxy in between may also close long requests",
    }  # fmt: skip
    points = {(p["run"], p["context"], p["depth"]): p for p in document["points"]}
    assert len(points) == 12
    planned = plan["engines"]["vllm"]["ttft_s"]["expected"]
    assert points["vLLM 0.24.0", 10_000_000, 0.1]["planned_ttft_s"] == planned > 1000
    ratios = [row for row in document["comparisons"][0]["rows"] if row["measure"] == "ttft"]
    assert [row["ratio"]["ratio"] for row in ratios if row["ratio"]] == pytest.approx([2.0] * 4)


def test_compare_puts_the_comparison_first(tmp_path: Path) -> None:
    write_engine_run(tmp_path / "a", scout_results())
    write_engine_run(tmp_path / "b", scout_results(2.0))
    runs = [tmp_path / "a", tmp_path / "b"]
    claims = re.findall(
        r'<p class="claim[^"]*">([^<]*)', render(runs, Format.HTML, ReportOptions(compare=True))
    )
    assert claims[0].startswith(
        "At 10M tokens, depth 0.9, the first token of vLLM 0.24.0, b takes 2.00 times as long"
    )
    plain = re.findall(r'<p class="claim[^"]*">([^<]*)', render(runs, Format.HTML))
    assert plain == [*claims[1:], claims[0]]
    with pytest.raises(InputError, match="takes two runs"):
        run_command("--compare", str(tmp_path / "a"))


def test_a_template_of_the_users_own_can_use_the_data_and_extend_ours(tmp_path: Path) -> None:
    write_engine_run(tmp_path / "run", [make_result()], model="<m>")
    page = tmp_path / "mine.html.j2"
    first = "{{ data.rows[0].point.ttft_s | seconds }}"
    page.write_text('{% include "report.css" %}|{{ data.title }}|' + first + "|{{ charts | length }}")
    out = render([tmp_path / "run"], Format.HTML, ReportOptions(template=page, title="<t>"))
    assert out.startswith(":root")
    assert out.endswith("|&lt;t&gt;|2.00 s|4")
    short = tmp_path / "short.md.j2"
    short.write_text('{% include "contexts.md.j2" %}')
    text = render([tmp_path / "run"], Format.MARKDOWN, ReportOptions(template=short))
    assert text.splitlines()[2] == (
        "| 10k | 0.5 | 1 | 10,000 | 0 | 4 | 2.00 s | 5,000 | 100.0 ms |  | 2.30 s | 100% | 1 ok |"
    )
    page.write_text("{{ data.nothing }}")
    with pytest.raises(InputError, match=r"mine\.html\.j2.*nothing"):
        render([tmp_path / "run"], Format.HTML, ReportOptions(template=page))
    page.write_text("\n{% if %}")
    with pytest.raises(InputError, match="line 2"):
        render([tmp_path / "run"], Format.HTML, ReportOptions(template=page))
    with pytest.raises(InputError, match="not a file"):
        render([tmp_path / "run"], Format.HTML, ReportOptions(template=tmp_path / "none"))


def test_charts_are_files_of_their_own_in_both_schemes(tmp_path: Path) -> None:
    write_engine_run(tmp_path / "run", [make_result()], model="<m>")
    code, output = run_command(str(tmp_path / "run"), "--charts", str(tmp_path / "figures"), "--json")
    assert code == 0
    paths = [Path(path) for path in json.loads(output)["charts"]]
    assert [path.name for path in paths] == ["ttft.svg", "prefill.svg", "itl.svg", "requests-a.svg"]
    for path in paths:
        root = ElementTree.fromstring(path.read_text())
        style = root.find("{http://www.w3.org/2000/svg}style")
        assert style is not None
        assert style.text is not None
        used = set(re.findall(r"var\((--[a-z0-9-]+)\)", path.read_text()))
        assert used <= set(re.findall(r"(--[a-z0-9-]+):", style.text))
        assert "prefers-color-scheme: dark" in style.text
    assert not list((tmp_path / "run").glob("report.*"))


def test_hostile_strings_do_not_break_the_markdown_tables(tmp_path: Path) -> None:
    results = [
        make_result(status=Status.WRONG_ANSWER, score=0.0, error=HOSTILE, answer=HOSTILE, reply=HOSTILE),
        make_result(repeat=1, labels=("warm", HOSTILE), evidence={"warm": HOSTILE}, cached_tokens=1),
    ]
    for name in ("one", "two"):
        write_engine_run(tmp_path / name, results, model=HOSTILE, version=HOSTILE)
    text = render([tmp_path / "one", tmp_path / "two"], Format.MARKDOWN)
    assert "<script" not in text.replace("\\<", "")
    assert not re.search("[\x00\u202e]", text)
    widths: dict[str, set[int]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("#"):
            section = line
        if line.startswith("|"):
            widths.setdefault(section, set()).add(len(re.findall(r"(?<!\\)\|", line)))
    assert len(widths) > 6
    assert all(len(width) == 1 for width in widths.values()), widths


@given(st.text(max_size=60))
def test_escaped_markdown_is_one_line_without_live_markup(text: str) -> None:
    escaped = escape_markdown(text)
    assert "\n" not in escaped
    plain = re.sub(r"\\(.)", "", escaped)
    assert not set(plain) & set("`*_[]<>|~&#!\\")
    assert "http://" not in plain


@settings(max_examples=12)
@given(
    contexts=st.lists(st.integers(1, 10**7), min_size=1, max_size=60),
    scale=st.sampled_from([1e-9, 1e-5, 1.0]),
    status=st.sampled_from(list(Status)),
)
def test_any_run_can_be_rendered(
    tmp_path_factory: pytest.TempPathFactory, contexts: list[int], scale: float, status: Status
) -> None:
    folder = tmp_path_factory.mktemp("any")
    results = [
        make_result(context=c, ttft_s=max(c * scale, 1e-6), status=status, repeat=i)
        for i, c in enumerate(contexts)
    ]
    write_engine_run(folder, results)
    assert render([folder], Format.HTML).endswith("</html>\n")
    assert len(list(csv.reader(io.StringIO(render([folder], Format.CSV))))) == len(contexts) + 1


def test_a_full_disk_leaves_the_page_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_engine_run(tmp_path / "run", [])
    page = write_report([tmp_path / "run"], tmp_path / "report.html").html
    assert page is not None
    before = page.read_text()
    write_text = Path.write_text

    def half(self: Path, text: str, **settings: Any) -> int:
        write_text(self, text[: len(text) // 2], **settings)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); free some space"):
        write_report([tmp_path / "run"], page)
    assert page.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


def test_runs_and_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        write_report([tmp_path])
    write_engine_run(tmp_path / "run", [])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_report([tmp_path / "run"], tmp_path / "file" / "report.html")
    (tmp_path / "many").mkdir()
    for number in range(7):
        write_engine_run(tmp_path / "many" / str(number), [])
    with pytest.raises(InputError, match="7 runs are too many"):
        write_report([tmp_path / "many"])
