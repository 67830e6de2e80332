"""The doctor looks at the built-in engine while it runs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from farspan.verbs.doctor import doctor


@pytest.fixture(scope="module")
def server(probe_folder: Path) -> Iterator[tuple[str, int]]:
    command = [
        sys.executable,
        "-m",
        "farspan.builtin",
        str(probe_folder),
        "--port",
        "0",
        "--kv-cache-gib",
        "0.5",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+:\d+", process.stdout.readline())
        assert found is not None
        yield found.group(), process.pid
    finally:
        process.terminate()
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)


def test_an_idle_server_has_nothing_to_say(server: tuple[str, int]) -> None:
    report = doctor(url=server[0], seconds=1)
    assert report.engine == "builtin"
    assert report.findings == ()
    assert any("0 requests run, 0 wait" in words for words in report.in_plain_terms)


def test_its_process_is_seen(server: tuple[str, int]) -> None:
    answered = httpx.post(
        f"{server[0]}/v1/completions", json={"model": "x", "prompt": [5, 6, 7], "max_tokens": 3}, timeout=60
    )
    assert answered.status_code in (200, 404)
    report = doctor(f"pid:{server[1]}", seconds=1)
    assert report.seen_at == server[0].replace("localhost", "127.0.0.1")
    assert not report.findings
