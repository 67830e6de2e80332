"""Runs the CLI many times, each time in a process that is killed at a step of its own on the disk, or after a time.

    python doomed.py SCRATCH  < orders, one a line: {"folder": RUN, "arguments": [...], "step": 7} or "after_s": 0.3

The modules are loaded once and every run is a fork, so that a run takes no longer than its work. Steps are counted
where the run changes something on disk in its run folder: opening to write, renaming, removing, making and removing
folders, connecting to SQLite, writing out with fsync. The run is killed before the step is taken. For every order one
line comes back: {"code": -9, "steps": 7, "out": "", "err": ""}.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from farspan.cli.main import main

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "sqlite3.connect"}
_LOADED = ("farspan.cli.bench", "farspan.prompts.exact_builder", "farspan.prompts.tokenizer", "tokenizers")


class Steps:
    """Counts steps and kills this process before one of them."""

    def __init__(self, folder: str, last: int, report: int) -> None:
        self._folder, self._last, self._report = folder, last, report
        self._taken = 0
        self._lock = threading.Lock()

    def install(self) -> None:
        sys.addaudithook(self._hear)
        sync = os.fsync

        def counted(descriptor: int) -> None:
            self._step()
            sync(descriptor)

        os.fsync = counted

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if writes and str(path).startswith(self._folder):
                self._step()
        elif event in _CHANGES and str(arguments[0]).startswith(self._folder):
            self._step()

    def _step(self) -> None:
        with self._lock:
            self._taken += 1
            os.pwrite(self._report, b"%8d" % self._taken, 0)
            if self._taken == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def run(folder: str, order: dict[str, object]) -> dict[str, object]:
    """Run one order in a process of its own."""
    out, err, steps = (Path(folder) / name for name in ("out", "err", "steps"))
    child = os.fork()
    if child == 0:
        for path, descriptor in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        report = os.open(steps, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        Steps(str(order["folder"]), int(str(order.get("step", 0))), report).install()
        sys.argv = ["farspan", *map(str, order["arguments"])]  # type: ignore[call-overload]
        code: object = 3
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(str(code)))
    after = order.get("after_s")
    if after is not None:
        time.sleep(float(str(after)))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "steps": int(steps.read_text() or 0),
        "out": out.read_text(),
        "err": err.read_text(),
    }


if __name__ == "__main__":
    for name in _LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(sys.argv[1], json.loads(line))), flush=True)
