"""What a server sends without an end takes little memory of `farspan bench` and none of its time limit."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farspan.models.probe import write_probe
from scripted import serve_endless

SOURCE = Path(__file__).resolve().parents[2] / "src"
# The program itself takes 75 MiB; an answer of 16 MiB is held once or twice.
MOST_MIB = 200


@pytest.mark.parametrize(
    ("kind", "path"),
    [("event", b"completions"), ("comments", b"completions"), ("json", b"models"), ("json", b"metrics")],
)
async def test_memory_stays_small(tmp_path: Path, kind: str, path: bytes) -> None:
    write_probe(tmp_path / "recall")
    async with serve_endless(kind, path) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "farspan", "bench", "--url", url, "--contexts", "1k", "--run", tmp_path / "run",
            "--tokenizer", tmp_path / "recall", "--first-token-timeout", "30",
            env={**os.environ, "PYTHONPATH": str(SOURCE)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        peak, began = 0, time.monotonic()
        while process.returncode is None and time.monotonic() - began < 60 and peak < 2 * MOST_MIB:
            peak = max(peak, read_peak_mib(process.pid))
            await asyncio.sleep(0.02)
        if process.returncode is None:
            process.kill()
        assert process.stderr is not None
        words = (await process.stderr.read()).decode()
        assert await process.wait() == 2, words
    assert peak < MOST_MIB, words


def read_peak_mib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in status.splitlines() if line.startswith("VmHWM:"))
    return next((int(line[1]) // 1024 for line in lines), 0)
