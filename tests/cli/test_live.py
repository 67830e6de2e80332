from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from farspan.cli.live import LiveWatcher, PlainWatcher, choose_watcher, describe_result
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import ServerInfo
from farspan.measurement.runs.job import Job
from samples import make_result

JOBS = [Job(context, 0.5, 0, 7, 4) for context in range(1000, 13_000, 1000)]
HOSTILE = "[bold]bold[/bold] [/oops] \x1b[31m"


def test_a_pipe_gets_plain_lines_and_a_terminal_the_live_display() -> None:
    assert type(choose_watcher(Console(file=io.StringIO()))) is PlainWatcher
    assert type(choose_watcher(Console(file=io.StringIO(), force_terminal=True))) is LiveWatcher


def test_plain_lines_have_every_request_and_no_control_codes() -> None:
    out = io.StringIO()
    with choose_watcher(Console(file=out)) as watcher:
        watcher.opened(
            Path("runs/x"), ServerInfo("http://127.0.0.1:1", HOSTILE, owned_by="vllm", version="1")
        )
        watcher.sending(2, 1)
        watcher.finished(make_result())
        watcher.finished(make_result(status=Status.REFUSED, error=HOSTILE, ttft_s=None, score=None))
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[1] == "2 requests to send, 1 are there already"
    assert lines[2] == "[1/2] 10k tokens, depth 0.5, TTFT 2.00 s, 5,000 tokens/s, recall 100%"
    assert lines[3].startswith("[2/2] 10k tokens, depth 0.5, refused: [bold]bold[/bold] [/oops]")
    assert "\x1b" not in out.getvalue()


def test_a_long_prefill_is_not_silent_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("farspan.cli.live.time.monotonic", lambda: now[0])
    out = io.StringIO()
    watcher = choose_watcher(Console(file=out))
    watcher.sending(1, 0)
    for second in range(1, 181):
        now[0] = 1000.0 + second
        watcher.progress(f"prefill {second // 2}%")
    assert out.getvalue().splitlines()[1:] == [
        "under way: prefill 30%",
        "under way: prefill 60%",
        "under way: prefill 90%",
    ]


def test_the_live_display_shows_what_is_under_way() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=40)
    with choose_watcher(console) as watcher:
        assert isinstance(watcher, LiveWatcher)
        watcher.waiting(1.0, HOSTILE)
        watcher.preparing(JOBS[0], 0, len(JOBS))
        watcher.sending(len(JOBS), 0)
        for job in JOBS:
            watcher.started(job)
        watcher.first_token(JOBS[0], 1.5)
        console.print(watcher._live.get_renderable())
        watcher.finished(make_result(context=1000, output_asked=4))
        console.print(watcher._live.get_renderable())
    shown = out.getvalue()
    assert "TTFT 1.50 s, decoding" in shown
    assert "prefill" in shown
    assert "and 4 more" in shown
    assert "and 3 more" in shown
    assert "1/12" in shown


def test_a_result_in_one_line() -> None:
    warm = make_result(labels=("warm",), evidence={"warm": "x"}, prefill_tokens_per_s=None)
    assert describe_result(warm) == "10k tokens, depth 0.5, TTFT 2.00 s, recall 100%, [warm]"
