"""What runs, asked so that a process that ends while it is asked about is simply not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil


def runs(process: psutil.Process | int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        asked = process if isinstance(process, psutil.Process) else psutil.Process(process)
        return asked.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def started_with(*words: str) -> list[psutil.Process]:
    """The running processes that have all these words among their arguments."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if set(words) <= set(process.info["cmdline"] or []) and runs(process)
    ]


def family_of(roots: list[psutil.Process]) -> list[psutil.Process]:
    """Processes and all that work for them."""
    return list({*roots, *_descendants(roots)})


def _descendants(roots: list[psutil.Process]) -> Iterator[psutil.Process]:
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from root.children(recursive=True)
