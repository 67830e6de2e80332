"""Run folders as a bench would have written them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from farspan.measurement.http.target import ServerInfo
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import Identity, Run, load_run, new_start, open_run


def write_run(
    folder: Path, results: Iterable[Result], *, model: str = "recall", root: str | None = None
) -> Run:
    """Write a run folder with these results and read it back."""
    server = ServerInfo("http://127.0.0.1:8000", model, root, 131_072, "farspan", "0.1.0")
    identity = Identity(model, "completions", "ids", "needle", 7, False)
    with open_run(folder, identity, new_start({"concurrency": 1}, server)) as store:
        for result in results:
            store.add(result)
    return load_run(folder)
