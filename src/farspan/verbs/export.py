"""Write a run under another tool's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from farspan.errors import InputError
from farspan.measurement.analysis.vllm_result import export_vllm
from farspan.measurement.runs.run_folder import load_run


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """A run as another tool would have written it.

    Args:
        document: Its JSON.
        output: The file it was written to; None when it was not.
    """

    document: dict[str, Any]
    output: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return self.document


def export(
    run: str | Path,
    *,
    output: str | Path | None = None,
    percentiles: Sequence[float] = (99.0,),
    detailed: bool = False,
) -> ExportedRun:
    """Return a run as `vllm bench serve --save-result` would have written it.

    Args:
        run: The run folder.
        output: A file to write it to.
        percentiles: Which to give, 0 to 100.
        detailed: Add the lists with one value a request.

    Raises:
        InputError: The folder is no run, or the file cannot be written.
    """
    document = export_vllm(load_run(Path(run)), percentiles=percentiles, detailed=detailed)
    if output is None:
        return ExportedRun(document)
    try:
        Path(output).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror or error})", "name another with -o"
        ) from error
    return ExportedRun(document, Path(output))
