"""The farspan program with a campaign folder of its own, ended by a signal at a moment, of which nothing may stay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from farspan.proof.campaign import STATE_FILE
from processes import started_with

_SOURCE = Path(__file__).resolve().parents[2] / "src"


class CampaignProgram:
    """A verb that keeps a campaign.

    Args:
        folder: What is kept goes there, the state of servers included.
        words: The verb and its options, without -o.
        checkpoint: What its servers serve, in `folder` or elsewhere.
    """

    def __init__(self, folder: Path, *words: str, checkpoint: Path | str) -> None:
        self.out = folder / "out"
        self.records = folder / "state" / "farspan" / "servers"
        self._words = (*words, "-o", str(self.out))
        self._checkpoint = folder / checkpoint
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(_SOURCE),
            "XDG_STATE_HOME": str(folder / "state"),
        }

    def start(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "farspan", *self._words, *more],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end_when(self, is_time: Callable[[], bool], number: signal.Signals) -> str:
        """Start it, send a signal at a moment, and see that nothing of it stays."""
        process = self.start()
        try:
            self.wait_until(is_time, process)
            process.send_signal(number)
            _, err = process.communicate(timeout=40)
        finally:
            process.kill()
        assert process.returncode == (130 if number == signal.SIGINT else -number), err
        assert "Traceback" not in err
        self.wait_until(lambda: not self.servers())
        return err

    def servers(self) -> list[psutil.Process]:
        return started_with("farspan.builtin", str(self._checkpoint))

    def progress(self) -> dict[str, dict[str, Any]]:
        """How far each engine is, by its name in the campaign."""
        path = self.out / STATE_FILE
        document = json.loads(path.read_bytes()) if path.exists() else {"engines": []}
        return {engine["name"]: engine for engine in document["engines"]}

    def sent(self, name: str) -> int:
        """How many requests of an engine are on disk."""
        path = self.out / name / "requests.jsonl"
        return len(path.read_bytes().splitlines()) if path.exists() else 0

    @staticmethod
    def wait_until(is_time: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
        deadline = time.monotonic() + 120
        while not is_time():
            assert time.monotonic() < deadline, "it did not come to that"
            if process is not None and process.poll() is not None:
                pytest.fail(f"it ended before: {process.communicate()[1]}")
            time.sleep(0.01)
