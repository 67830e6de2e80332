"""vLLM's `bench serve` and SGLang's `bench_serving`: one object a benchmark, its requests as parallel lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farspan.errors import InputError
from farspan.measurement.imports.fields import Fields
from farspan.measurement.imports.foreign import ForeignRequest, ForeignRun

# The lists that must be as long as each other, by the tool's own name for each.
_LISTS = (
    "input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "generated_texts", "errors",
    "cached_tokens",
)  # fmt: skip


def read_vllm(document: Any, where: str) -> ForeignRun:
    """Read what `vllm bench serve --save-result` wrote (0.12.0 to 0.33.0: `benchmarks/serve.py: main`).

    Prompt tokens are the server's where it reports usage, else the client's own count: the file does not say which.

    Raises:
        InputError: Something in it is of the wrong kind, or its lists differ in length.
    """
    fields = Fields(document, where)
    return ForeignRun(
        tool="vllm bench serve",
        model=fields.text("model_id") or "unknown",
        engine="vllm" if fields.text("backend") == "vllm" else None,
        api="chat" if "chat" in (fields.text("backend") or "") else "completions",
        concurrency=fields.count("max_concurrency"),
        arguments=fields.scalars(),
        totals=fields.figures(),
        requests=_requests(fields, None, None),
    )


def read_sglang(document: Any, where: str) -> ForeignRun:
    """Read what SGLang's `bench_serving --output-file` wrote (0.5.6 to 0.5.23: `benchmark/serving.py`).

    Raises:
        InputError: Something in it is of the wrong kind, or its lists differ in length.
    """
    fields = Fields(document, where)
    server = fields.inner("server_info")
    exact = fields.number("random_range_ratio") == 1.0 and (fields.text("dataset_name") or "").startswith(
        "random"
    )
    return ForeignRun(
        tool="sglang bench_serving",
        model=server.text("served_model_name") or server.text("model_path") or "unknown",
        engine="sglang" if (fields.text("backend") or "").startswith("sglang") else None,
        engine_version=server.text("version"),
        api="chat" if "chat" in (fields.text("backend") or "") else "completions",
        concurrency=fields.count("max_concurrency"),
        arguments=fields.scalars(),
        totals=fields.figures(),
        requests=_requests(
            fields,
            fields.count("random_input_len") if exact else None,
            fields.count("random_output_len") if exact else None,
        ),
    )


def _requests(fields: Fields, asked: int | None, output: int | None) -> Iterator[ForeignRequest]:
    lengths = {name: len(values) for name in _LISTS if (values := fields.items(name)) is not None}
    if "ttfts" not in lengths:
        return iter(())  # totals only: the file was written without its details
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(
            f"{fields.where}: its lists differ in length ({described})", "import an undamaged file"
        )
    return _walk(fields, lengths["ttfts"], asked, output)


def _walk(fields: Fields, requests: int, asked: int | None, output: int | None) -> Iterator[ForeignRequest]:
    nothing = (None,) * requests
    ttfts = fields.numbers("ttfts") or nothing
    latencies = fields.numbers("latencies") or nothing
    inputs = fields.counts("input_lens") or nothing
    outputs = fields.counts("output_lens") or nothing
    cached = fields.counts("cached_tokens") or nothing
    gaps = fields.items("itls") or nothing
    texts = fields.items("generated_texts") or nothing
    errors = fields.items("errors") or nothing
    for number in range(requests):
        one = Fields(
            {"itls": gaps[number], "text": texts[number], "error": errors[number]},
            f"{fields.where}: request {number}",
        )
        kept = tuple(gap for gap in one.numbers("itls") or () if gap is not None)
        error = one.text("error") or ""
        ttft, latency = ttfts[number], latencies[number]
        if not error and not ttft:
            error = "no token came"
        yield ForeignRequest(
            asked_tokens=asked,
            asked_output=output,
            prompt_tokens=inputs[number],
            cached_tokens=cached[number],
            output_tokens=outputs[number],
            ttft_s=None if error else ttft,
            gaps_s=None if error else kept,
            # SGLang's file has no latencies; the last token is all the gaps after the first.
            e2e_s=None if error else latency if latency is not None else (ttft or 0.0) + sum(kept),
            text=one.text("text") or "",
            error=error,
        )
