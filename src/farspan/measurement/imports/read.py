"""Which tool wrote a file, and the runs in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson  # type: ignore[import-untyped]

from farspan.errors import InputError
from farspan.measurement.imports.foreign import ForeignRun
from farspan.measurement.imports.genai import METADATA_FILE, read_genai
from farspan.measurement.imports.guidellm import BUFFER, read_guidellm, shallow
from farspan.measurement.imports.lists import read_sglang, read_vllm
from farspan.measurement.imports.shorten import ShortStrings

# A name at the top of the file that only this tool writes.
_MARKS = {
    "aggregated_metrics": "genai-bench",
    "benchmarks": "guidellm",
    "model_id": "vllm",
    "endpoint_type": "vllm",
    "sharegpt_output_len": "sglang",
    "random_range_ratio": "sglang",
}
_TOOLS = "guidellm, vllm bench serve, SGLang's bench_serving or genai-bench"
# Files of the tools that keep no prompts are read whole.
_MOST_BYTES = 2 * 2**30


def read_foreign(path: Path) -> list[ForeignRun]:
    """Read another tool's result file: one run for every benchmark in it.

    Errors in a request show when that request is read.

    Raises:
        InputError: There is no such file, no tool farspan knows wrote it, or it is damaged.
    """
    try:
        tool = _find_tool(path)
        if tool == "guidellm":
            runs = read_guidellm(path)
        elif tool == "genai-bench":
            beside = path.with_name(METADATA_FILE)
            metadata = _load(beside) if beside.is_file() else None
            runs = [read_genai(_load(path), path.name, metadata)]
        else:
            read = read_vllm if tool == "vllm" else read_sglang
            runs = [
                read(document, f"{path.name}, benchmark {i + 1}") for i, document in enumerate(_lines(path))
            ]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})", "check the path") from error
    except (ijson.JSONError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not runs:
        raise InputError(f"{path} holds no benchmark", f"import a finished result of {_TOOLS}")
    return runs


def guarded(path: Path, run: ForeignRun) -> Iterator[Any]:
    """Yield a run's requests; what the file's decoder raises becomes an `InputError`."""
    try:
        yield from run.requests
    except (ijson.JSONError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def _find_tool(path: Path) -> str:
    names: list[str] = []
    with path.open("rb") as file:
        try:
            # Lines of objects are several values; the first one's names decide.
            for prefix, event, value in shallow(
                ijson.parse(ShortStrings(file), buf_size=BUFFER, use_float=True, multiple_values=True)
            ):
                if prefix == "" and event == "map_key":
                    if value in _MARKS:
                        return _MARKS[value]
                    names.append(value)
                elif prefix == "" and event != "start_map":
                    break
        except ijson.JSONError as error:
            # SGLang writes the rate without a limit as Infinity, which is not JSON, before the names that tell.
            if "request_rate" in names and "dataset_name" in names:
                return "sglang"
            raise _damaged(path, error) from error
    seen = ", ".join(json.dumps(name) for name in names[:5]) or "no object"
    raise InputError(
        f"{path} was not written by a tool farspan reads: it holds {seen}", f"import a file of {_TOOLS}"
    )


def _load(path: Path) -> Any:
    _check_size(path)
    return json.loads(path.read_bytes())


def _lines(path: Path) -> Iterator[Any]:
    """Yield the objects of a file: one, or one after the other as both tools append them."""
    _check_size(path)
    text = path.read_text("utf-8")
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        value, at = decoder.raw_decode(text, at)
        yield value


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise InputError(
            f"{path} has {size:,} bytes, more than is read whole", "import one benchmark at a time"
        )


def _damaged(path: Path, error: Exception) -> InputError:
    reason = "too deeply nested" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
    return InputError(f"{path} is not JSON as a benchmark writes it ({reason})", f"import a file of {_TOOLS}")
