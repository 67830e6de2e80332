"""guidellm: one file of any number of benchmarks, every request with its whole prompt in it.

The prompts make such a file gigabytes at millions of tokens, so it is read as a stream: one request at a time is in
memory (ijson, the usual library for that), without its prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import ijson  # type: ignore[import-untyped]

from farspan.errors import InputError
from farspan.measurement.imports.fields import Fields
from farspan.measurement.imports.foreign import ForeignRequest, ForeignRun
from farspan.measurement.imports.shorten import ShortStrings

_REQUESTS = "benchmarks.item.requests"
# Bytes parsed at a time: small, since a buffer of nothing but brackets is parsed whole before its depth shows.
BUFFER = 4096
_DEEPEST = 64
_KINDS = ("successful", "errored")
# Where the file says what was asked, and under which name it is kept.
_ASKED = {
    "metadata.guidellm_version": "version",
    "config.spec.backend.target": "target",
    "config.spec.backend.model": "model",
    "config.spec.backend.request_format": "request_format",
    "config.spec.data.item.prompt_tokens": "prompt_tokens",
    "config.spec.data.item.output_tokens": "output_tokens",
}


@dataclass(slots=True)
class _Outline:
    """What a file holds, without its requests."""

    asked: dict[str, Any] = field(default_factory=dict)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)


def read_guidellm(path: Path) -> list[ForeignRun]:
    """Read what guidellm 0.8 wrote as JSON: one run a benchmark. Requests are read from the file as asked for.

    It keeps no gaps between tokens: TPOT follows from its first and last token.

    Raises:
        InputError: The file is not JSON, or something in it is of the wrong kind.
    """
    outline = _read_outline(path)
    asked = Fields(outline.asked, f"{path}: config")
    runs = []
    for number, benchmark in enumerate(outline.benchmarks):
        first = {kind: sum(b[kind] for b in outline.benchmarks[:number]) for kind in _KINDS}
        runs.append(
            ForeignRun(
                tool="guidellm",
                tool_version=asked.text("version"),
                model=asked.text("model") or "unknown",
                url=asked.text("target") or "",
                api="chat" if "chat" in (asked.text("request_format") or "chat") else "completions",
                concurrency=Fields(benchmark, f"{path}: benchmark {number}").count("max_concurrency"),
                arguments=asked.scalars(),
                requests=_walk(
                    path, first, benchmark, asked.count("prompt_tokens"), asked.count("output_tokens")
                ),
                left_out=benchmark["incomplete"],
            )
        )
    return runs


def shallow(events: Iterable[tuple[str, str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Pass on a parser's events; their prefixes grow with depth, so absurd depth takes absurd time.

    Raises:
        ValueError: The document is nested more deeply than any benchmark's.
    """
    depth = 0
    for prefix, event, value in events:
        depth += event.startswith("start_") - event.startswith("end_")
        if depth > _DEEPEST:
            raise ValueError("too deeply nested")
        yield prefix, event, value


def _read_outline(path: Path) -> _Outline:
    outline = _Outline()
    with path.open("rb") as file:
        for prefix, event, value in shallow(ijson.parse(ShortStrings(file), buf_size=BUFFER, use_float=True)):
            if event in ("string", "number") and prefix in _ASKED:
                outline.asked.setdefault(_ASKED[prefix], value)
            elif event == "start_map" and prefix == "benchmarks.item":
                outline.benchmarks.append({"successful": 0, "errored": 0, "incomplete": 0})
            elif outline.benchmarks and event == "start_map" and prefix.startswith(_REQUESTS):
                kind = prefix.removeprefix(_REQUESTS + ".").removesuffix(".item")
                if kind in outline.benchmarks[-1]:
                    outline.benchmarks[-1][kind] += 1
            elif prefix == "benchmarks.item.config.strategy.max_concurrency" and event == "number":
                outline.benchmarks[-1]["max_concurrency"] = value
    return outline


def _walk(
    path: Path, first: dict[str, int], benchmark: dict[str, Any], asked: int | None, output: int | None
) -> Iterator[ForeignRequest]:
    for kind in _KINDS:
        with path.open("rb") as file:
            documents = ijson.items(ShortStrings(file), f"{_REQUESTS}.{kind}.item", use_float=True)
            chosen = islice(documents, first[kind], first[kind] + benchmark[kind])
            for number, document in enumerate(chosen):
                yield _read_request(Fields(document, f"{path}: {kind} request {number}"), kind, asked, output)


def _read_request(one: Fields, kind: str, asked: int | None, output: int | None) -> ForeignRequest:
    info = one.inner("info")
    times = info.inner("timings")
    began, last = times.number("request_start"), times.number("last_token_iteration")
    ttft, latency = one.number("time_to_first_token_ms"), one.number("request_latency")
    error = ""
    if kind == "errored":
        error = info.text("error") or "guidellm gives no reason"
    elif ttft is None and latency is None:
        raise InputError(
            f"{one.where} has neither time_to_first_token_ms nor request_latency",
            "write the file with guidellm 0.8",
        )
    # Its own latency ends when the connection does; the last token comes a little before.
    e2e = last - began if began is not None and last is not None and last >= began else latency
    return ForeignRequest(
        asked_tokens=asked,
        asked_output=output,
        prompt_tokens=one.count("prompt_tokens"),
        cached_tokens=one.count("cached_tokens"),
        output_tokens=one.count("output_tokens"),
        started_at=began,
        ttft_s=None if error or ttft is None else ttft / 1000,
        e2e_s=None if error else e2e,
        text=one.text("output") or "",
        error=error,
    )
