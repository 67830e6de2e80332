"""From another tool's requests to a run folder of ours, every result labelled as imported."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from farspan.errors import InputError
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import ServerInfo
from farspan.measurement.imports.foreign import ForeignRequest, ForeignRun
from farspan.measurement.imports.read import guarded, read_foreign
from farspan.measurement.runs.result import REPLY_CHARACTERS, Result, is_warm, summarise_gaps
from farspan.measurement.runs.run_folder import IMPORTED_TASK, Identity, new_start, open_run

IMPORTED_FILE = "imported.json"
# Tokens closer together than this were not seen arriving one by one.
_AT_ONCE_S = 1e-4
_BATCH = 256  # requests in memory at a time
_LATEST = 4_102_444_800  # the year 2100, in seconds since the epoch


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import.

    Args:
        folder: The run folder.
        tool: Which tool wrote the file, with its version when the file says.
        model: The model's name.
        requests: How many requests were taken over.
        failed: How many of them had failed.
        left_out: How many the tool had broken off, which were not taken over.
        benchmarks: How many benchmarks the file holds.
    """

    folder: Path
    tool: str
    model: str
    requests: int
    failed: int
    left_out: int
    benchmarks: int

    def to_json(self) -> dict[str, Any]:
        """What was imported, as plain data."""
        return asdict(self) | {"folder": str(self.folder)}


def import_file(
    path: Path, folder: Path, *, entry: int | None = None, context: int | None = None
) -> Imported:
    """Read another tool's result file into a new run folder.

    Args:
        path: The file.
        folder: The run folder to make; all of it or nothing is made.
        entry: Which benchmark of the file to take, from 1; may be None when it holds one.
        context: Prompt tokens that every request was asked to have, where the file does not say.

    Raises:
        InputError: The file cannot be read, holds several benchmarks and no entry is chosen, or holds only
            totals; or the folder is there already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already", "name a new folder with -o")
    runs = read_foreign(path)
    run = _choose(path, runs, entry)
    draft = folder.with_name(f".{folder.name}.importing")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        imported = _write(path, run, draft, folder, len(runs), context)
        if folder.exists():
            folder.rmdir()
        draft.replace(folder)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error})", "name another with -o"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return imported


def _choose(path: Path, runs: list[ForeignRun], entry: int | None) -> ForeignRun:
    if entry is None and len(runs) > 1:
        loads = ", ".join(
            f"{i} (concurrency {'unknown' if run.concurrency is None else run.concurrency})"
            for i, run in enumerate(runs[:20], start=1)
        )
        raise InputError(f"{path} holds {len(runs)} benchmarks: {loads}", "choose one with --entry")
    if entry is not None and not 1 <= entry <= len(runs):
        raise InputError(f"{path} has no benchmark {entry}", f"give --entry 1 to {len(runs)}")
    return runs[(entry or 1) - 1]


def _write(
    path: Path, run: ForeignRun, draft: Path, folder: Path, benchmarks: int, context: int | None
) -> Imported:
    identity = Identity(
        model=run.model, api=run.api, prompt_as="text", task=IMPORTED_TASK, seed=0, ignore_eos=False
    )
    server = ServerInfo(run.url or "unknown", run.model, owned_by=run.engine, version=run.engine_version)
    tool = " ".join(part for part in (run.tool, run.tool_version) if part)
    arguments: dict[str, Any] = {"concurrency": run.concurrency, "imported_from": tool, "file": path.name}
    failed = requests = 0
    with open_run(draft, identity, new_start(arguments, server)) as store:
        for results in _batches(convert_all(tool, guarded(path, run), context)):
            store.add_all(results)
            requests += len(results)
            failed += sum(result.status is not Status.OK for result in results)
    if not requests:
        hint = {
            "vllm bench serve": "run vllm bench serve with --save-result --save-detailed",
            "sglang bench_serving": "run bench_serving with --output-details",
        }.get(run.tool, "import a run that has sent requests")
        raise InputError(f"{path} has totals only and no requests", hint)
    document = {
        "tool": run.tool,
        "tool_version": run.tool_version,
        "file": path.name,
        "sha256": _hash(path),
        "arguments": run.arguments,
        "totals": run.totals,
        "left_out": run.left_out,
    }
    (draft / IMPORTED_FILE).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return Imported(folder, tool, run.model, requests, failed, run.left_out, benchmarks)


def _batches(results: Iterator[Result]) -> Iterator[list[Result]]:
    while batch := list(islice(results, _BATCH)):
        yield batch


def convert_all(tool: str, requests: Iterator[ForeignRequest], asked: int | None) -> Iterator[Result]:
    """Make results of a run's requests, numbering those of a kind; `asked` is the context when it is known."""
    seen: Counter[tuple[int, int]] = Counter()
    for request in requests:
        context = asked or request.asked_tokens or request.prompt_tokens or 0
        output = request.asked_output or request.output_tokens or 0
        yield convert(tool, request, context, output, seen[context, output])
        seen[context, output] += 1


def convert(tool: str, request: ForeignRequest, context: int, output: int, repeat: int) -> Result:
    """Make a result of a request; pure.

    Args:
        tool: Who measured it.
        request: What that tool recorded.
        context, output: Tokens asked for, or counted where the tool does not say what it asked for.
        repeat: Which request of this kind it is, from 0.
    """
    ttft, e2e = request.ttft_s, request.e2e_s
    if ttft is not None and e2e is not None and e2e < ttft:
        e2e = ttft
    times: tuple[float, ...] = ()
    if ttft is not None:
        times = tuple(np.cumsum((ttft, *(request.gaps_s or ()))).round(6).tolist())
    good = not request.error
    warm = is_warm(request.cached_tokens, request.prompt_tokens or context)
    labels = _find_labels(tool, request, context, e2e) if good else {"imported": f"measured by {tool}"}
    tokens = request.output_tokens or len(times)
    decoding = 0.0 if ttft is None or e2e is None else e2e - ttft
    tpot = decoding / (tokens - 1) if good and tokens > 1 and decoding > 0 else None
    known = request.prompt_tokens and ttft and not warm
    return Result(
        context=context,
        depth=0.0,
        repeat=repeat,
        seed=0,
        output_asked=output,
        started_at=_when(request.started_at),
        status=Status.OK if good else _status(request),
        error=" ".join(request.error.split())[:REPLY_CHARACTERS],
        http_status=200 if good else request.http_status,
        prompt_tokens=request.prompt_tokens if good else None,
        cached_tokens=request.cached_tokens if good else None,
        output_tokens=request.output_tokens if good else None,
        ttft_s=ttft,
        itl_s=summarise_gaps(times) if request.gaps_s is not None else None,
        e2e_s=e2e if e2e is not None else (times[-1] if times else 0.0),
        bytes_sent_s=None,
        body_bytes=0,
        prefill_tokens_per_s=(request.prompt_tokens or 0) / (ttft or 1.0) if good and known else None,
        finish_reason=None,
        score=None,
        answer="",
        reply=request.text[:REPLY_CHARACTERS],
        labels=tuple(labels),
        evidence=labels,
        tpot_s=tpot,
        decode_tokens_per_s=1 / tpot if tpot else None,
        token_times_s=times if request.gaps_s is not None else times[:1],
    )


def _find_labels(tool: str, request: ForeignRequest, context: int, e2e: float | None) -> dict[str, str]:
    labels = {
        "imported": f"measured by {tool}: its client's lag is in the times, its answers were not checked"
    }
    counted, tokens = request.prompt_tokens, request.output_tokens
    if is_warm(request.cached_tokens, counted or context):
        labels["warm"] = f"{request.cached_tokens} of {counted or context} prompt tokens were cached"
    elif request.cached_tokens is None:
        labels["cached-unknown"] = f"{tool} does not record cached tokens"
    if counted is None:
        labels["count-unknown"] = f"{tool} does not record the prompt's tokens"
    elif counted != context:
        labels["short" if counted < context else "long"] = (
            f"{counted} prompt tokens counted, {context} asked for"
        )
    if request.gaps_s is None:
        labels["itl-unknown"] = f"{tool} keeps no gaps between tokens"
    if tokens and tokens > 1 and e2e is not None and request.ttft_s is not None:
        span = e2e - request.ttft_s
        if span / (tokens - 1) < _AT_ONCE_S:
            labels["at-once"] = (
                f"{tokens} tokens within {span * 1000:.1f} ms of the first: the client read them late, "
                "and the TTFT is its own"
            )
    return labels


def _status(request: ForeignRequest) -> Status:
    """Say how a request failed, as far as the words that the tool kept tell."""
    words = request.error.lower()
    code = request.http_status
    if code is not None:
        return Status.REFUSED if code < 500 else Status.SERVER_ERROR
    for part, status in (
        ("bad request", Status.REFUSED),
        ("client error", Status.REFUSED),
        ("unauthorized", Status.REFUSED),
        ("not found", Status.REFUSED),
        ("timeout", Status.TIMED_OUT),
        ("timed out", Status.TIMED_OUT),
        ("cannot connect", Status.UNREACHABLE),
        ("connection refused", Status.UNREACHABLE),
        ("disconnected", Status.CUT),
        ("no token came", Status.CUT),
    ):
        if part in words:
            return status
    return Status.SERVER_ERROR


def _when(seconds: float | None) -> str:
    if seconds is None or not 0 < seconds < _LATEST:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
