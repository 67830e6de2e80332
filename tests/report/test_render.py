from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farspan.bench.measure import Result
from farspan.bench.status import Status
from farspan.errors import InputError
from farspan.report.render import escape_markdown, write_report
from run_folders import write_run
from samples import make_result

HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "</style></title></svg>]]>&lt;b&gt; {{ 7*7 }} | **bold** [x](http://evil.example) `c` \n# h\n\x00\u202e'\""
)


class Tags(HTMLParser):
    """Collects what a browser would act upon."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_tags(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def good_results() -> list[Result]:
    return [
        make_result(context=c, prompt_tokens=c, depth=d, ttft_s=c / 5000)
        for c in (4000, 64_000)
        for d in (0.1, 0.9)
    ]


def hostile_run(folder: Path) -> Path:
    results = [
        make_result(status=Status.WRONG_ANSWER, score=0.0, error=HOSTILE, answer=HOSTILE, reply=HOSTILE),
        make_result(repeat=1, labels=("warm",), evidence={"warm": HOSTILE}, cached_tokens=1),
        make_result(repeat=2, status=Status.REFUSED, score=None, ttft_s=None, itl_s=None, error=HOSTILE),
    ]
    write_run(folder, results, model=HOSTILE, root=HOSTILE)
    return folder


def test_a_page_holds_everything_and_needs_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", good_results())
    files = write_report(tmp_path / "run", tmp_path / "out")
    html = files.html.read_text()
    tags = read_tags(html)
    assert tags.tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base", "form"})
    assert {name for name, _ in tags.attributes}.isdisjoint({"src", "onload", "onerror", "onclick"})
    assert not any(
        "url(" in value or value.startswith("http")
        for name, value in tags.attributes
        if not name.startswith("xmlns")
    )
    assert html.count("<svg") == 2
    assert len(html) < 3 * 2**20
    assert "prefers-color-scheme: dark" in html
    assert "contexts are proven up to 64k tokens" in html
    markdown = files.markdown.read_text()
    assert "| 64k | 0.9 | 1 | 64,000 | 0 | 12.8 s |" in markdown


def test_hostile_strings_stay_inert(tmp_path: Path) -> None:
    files = write_report(hostile_run(tmp_path / "run"))
    html = files.html.read_text()
    tags = read_tags(html)
    assert "script" not in tags.tags
    assert "img" not in tags.tags
    assert not any(name.startswith("on") for name, _ in tags.attributes)
    assert "document.title='owned'" in "".join(tags.text)
    assert "{{ 7*7 }}" in "".join(tags.text)
    assert not re.search("[\x00\u202e]", html)
    assert not re.search("[\x00\u202e]", files.markdown.read_text())


def test_hostile_strings_do_not_break_the_markdown_tables(tmp_path: Path) -> None:
    text = write_report(hostile_run(tmp_path / "run")).markdown.read_text()
    assert "<script" not in text.replace("\\<", "")
    widths: dict[str, set[int]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("#"):
            section = line
        if line.startswith("|"):
            widths.setdefault(section, set()).add(len(re.findall(r"(?<!\\)\|", line)))
    assert len(widths) == 5
    assert all(len(width) == 1 for width in widths.values()), widths


@given(st.text(max_size=60))
def test_escaped_markdown_is_one_line_without_live_markup(text: str) -> None:
    escaped = escape_markdown(text)
    assert "\n" not in escaped
    plain = re.sub(r"\\(.)", "", escaped)
    assert not set(plain) & set("`*_[]<>|~&#!\\")
    assert "http://" not in plain


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contexts=st.lists(st.integers(1, 10**7), min_size=1, max_size=12),
    scale=st.sampled_from([1e-9, 1e-5, 1.0]),
    status=st.sampled_from(list(Status)),
)
def test_any_run_can_be_rendered(
    tmp_path_factory: pytest.TempPathFactory, contexts: list[int], scale: float, status: Status
) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_run(
        folder,
        [
            make_result(context=c, ttft_s=max(c * scale, 1e-6), status=status, repeat=i)
            for i, c in enumerate(contexts)
        ],
    )
    assert write_report(folder).html.stat().st_size > 1000


def test_runs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        write_report(tmp_path)
    write_run(tmp_path / "run", [])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "run", tmp_path / "file")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium; CI must have it")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page_and_runs_nothing(tmp_path: Path, scheme: str) -> None:
    assert CHROMIUM is not None
    files = write_report(hostile_run(tmp_path / "run"))
    base = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900", "--hide-scrollbars",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
    ]  # fmt: skip
    page = files.html.as_uri()
    dom = subprocess.run(
        [*base, "--dump-dom", page], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None
    assert title.group(1).startswith("farspan report: &lt;script&gt;")
    tags = read_tags(dom)
    assert "script" not in tags.tags
    assert "img" not in tags.tags
    assert "svg" in tags.tags
    shot = tmp_path / "page.png"
    subprocess.run([*base, f"--screenshot={shot}", page], capture_output=True, timeout=120, check=True)
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 20_000  # an empty page of this size takes a tenth of that
