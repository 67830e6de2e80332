"""The built-in server as a process of its own, and what tests ask of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families


def start(
    folder: Path | str, *options: str, output: IO[bytes] | None = None, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "farspan.builtin", str(folder), "--port", "0", *options],
        stdout=output or subprocess.PIPE,
        stderr=output or subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.search(r"http://\S+:\d+", line)
    assert match, f"{line!r} {process.stderr.read() if process.stderr else ''}"
    return match.group()


def engine_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Return the engine's process; it is there from the server's first moments on."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children():
            if "farspan.builtin.engine_process" in child.cmdline():
                return child
        time.sleep(0.02)
    raise AssertionError("there is no engine")


@contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    """Stop a process, and let it go on in the end."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def post(url: str, path: str, body: Any) -> httpx.Response:
    return httpx.post(url + path, json=body, timeout=300)


def metrics(url: str) -> dict[str, float]:
    """Return every metric's value, summed over its labels."""
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0) + sample.value
    return totals
