"""Read another tool's result file into a run folder."""

from __future__ import annotations

from pathlib import Path

from farspan.measurement.imports.write_foreign import Imported, import_file
from farspan.sizes import parse_tokens


def import_run(
    file: str | Path, run: str | Path, *, entry: int | None = None, context: str | int | None = None
) -> Imported:
    """Read a result file of guidellm, vLLM, SGLang or genai-bench into a new run folder.

    Args:
        file: The result file.
        run: The run folder to make; all of it or nothing is made.
        entry: Which benchmark of the file to take, from 1; needed when it holds several.
        context: Prompt tokens that every request was asked to have, where the file does not say.

    Raises:
        InputError: The file cannot be read, holds no requests, or the folder is there already.
    """
    tokens = None if context is None else parse_tokens(str(context))
    return import_file(Path(file), Path(run), entry=entry, context=tokens)
