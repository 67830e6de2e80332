"""Prove a context end to end on this machine, no GPU needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from farspan.measurement.progress import Watcher
from farspan.proof.demo import DemoOptions, DemoOutcome, run_demo
from farspan.sizes import parse_tokens


def demo(
    output: str | Path | None = None,
    *,
    contexts: Sequence[str | int] | None = None,
    depths: Sequence[float] = (0.1, 0.9),
    time_limit: float = 110.0,
    watcher: Watcher | None = None,
) -> DemoOutcome:
    """Serve the recall checkpoint on the built-in engine, measure it, check its answers, and write a report.

    Args:
        output: An empty folder for all that the demo makes; demo/ and the time when None.
        contexts: Prompt lengths in tokens; 4k, 16k, 64k, and 128k when it fits the time, when None.
        depths: Where the needle goes, 0 the start to 1 the end.
        time_limit: Longest time for everything together, s.
        watcher: Its methods are called as the demo goes on.

    Raises:
        InputError: The folder is in use, or a package is missing.
        LaunchError: The server did not start.
    """
    folder = Path(output) if output else Path("demo") / datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    lengths = None if contexts is None else tuple(parse_tokens(str(context)) for context in contexts)
    return asyncio.run(run_demo(DemoOptions(folder, lengths, tuple(depths), time_limit), watcher=watcher))
