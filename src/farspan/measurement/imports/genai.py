"""genai-bench: one file a scenario and concurrency, with experiment_metadata.json beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from farspan.errors import InputError
from farspan.measurement.imports.fields import Fields
from farspan.measurement.imports.foreign import ForeignRequest, ForeignRun

METADATA_FILE = "experiment_metadata.json"


def read_genai(document: Any, where: str, metadata: Any = None) -> ForeignRun:
    """Read what genai-bench 0.0.5 wrote for one scenario.

    It keeps no gaps between tokens, no start times and no replies.

    Args:
        document: The scenario's file, decoded.
        where: The file's name, for errors.
        metadata: The experiment's metadata, decoded; None when there is none beside the file.

    Raises:
        InputError: Something in it is of the wrong kind.
    """
    fields = Fields(document, where)
    totals = fields.inner("aggregated_metrics")
    experiment = Fields({} if metadata is None else metadata, METADATA_FILE)
    unit = fields.text("_time_unit") or "s"
    if unit not in ("s", "ms"):
        raise InputError(f"{where}: _time_unit is {unit!r}, neither s nor ms", "import an undamaged file")
    asked = re.fullmatch(r"D\((\d{1,9}),(\d{1,9})\)", totals.text("scenario") or "")
    return ForeignRun(
        tool="genai-bench",
        tool_version=experiment.text("benchmark_version"),
        model=experiment.text("api_model_name") or "unknown",
        engine=(experiment.text("server_engine") or "").lower() or None,
        engine_version=experiment.text("server_version"),
        api="chat",
        concurrency=totals.count("num_concurrency"),
        # Not the experiment's command line: it can hold a key.
        arguments={name: value for name, value in experiment.scalars().items() if name != "cmd"},
        totals=totals.figures(),
        requests=_requests(
            fields,
            1000.0 if unit == "ms" else 1.0,
            int(asked.group(1)) if asked else None,
            int(asked.group(2)) if asked else None,
        ),
    )


def _requests(fields: Fields, unit: float, asked: int | None, output: int | None) -> Iterator[ForeignRequest]:
    for number, document in enumerate(fields.items("individual_request_metrics") or ()):
        one = Fields(document, f"{fields.where}: request {number}")
        code, ttft, e2e = one.count("error_code"), one.number("ttft"), one.number("e2e_latency")
        error = one.text("error_message") or ""
        if not error and ttft is None:
            error = "no token came"
        yield ForeignRequest(
            asked_tokens=asked,
            asked_output=output,
            prompt_tokens=one.count("num_input_tokens"),
            output_tokens=one.count("num_output_tokens"),
            ttft_s=None if error or ttft is None else ttft / unit,
            e2e_s=None if e2e is None else e2e / unit,
            error=error,
            http_status=code if code is not None and 100 <= code <= 599 else None,
        )
