"""The recall checkpoint on a real engine: ten questions, then its time to first token beside ours, a table and JSON.

    python benchmarks/recall_servers.py --engine vllm [--python PY] [--gpus detect] [--kv-dtype fp8_e4m3] [--experts 4]
        [--max-context 1M] [--contexts 1M,4M] [--flags "..."] [-o vllm.json] [--log vllm.log]

Writes the checkpoint, starts the engine as `farspan serve --runtime local` does, asks as `farspan probe --check` does,
measures `--contexts` as `farspan bench` does, one request at a time, and ends the engine. A step that fails is in the
JSON with why, and the next one is tried.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import farspan
from farspan.errors import FarspanError
from farspan.launch.server_records import StateFolder
from farspan.sizes import format_seconds, format_tokens, parse_token_list, parse_tokens

# An answer, and what engines keep of a context for themselves.
ROOM_TOKENS = 32
SHOWN = (
    "context", "depth", "status", "ttft_s", "engine_ttft_s", "stream_late_s", "first_token_held_s", "bytes_sent_s",
    "e2e_s", "score", "output_tokens", "token_times_s", "labels", "error",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", required=True)
    parser.add_argument("--python", default="", help="the Python that has the engine")
    parser.add_argument("--gpus", default="detect")
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--experts", type=int, default=0)
    parser.add_argument("--max-context", type=parse_tokens, default=1_000_000, help="longest question")
    parser.add_argument("--contexts", type=parse_token_list, default=(), help="lengths to measure afterwards")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--flags", default="", help="the engine's own, and its environment")
    parser.add_argument("--ready-limit", type=float, default=240.0)
    parser.add_argument("--log", type=Path, help="where to keep the engine's log")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farspan-recall-") as home:
        document = measure(arguments, Path(home))
    if arguments.output:
        arguments.output.write_text(json.dumps(document, indent=2) + "\n")
    show(document)


def measure(arguments: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Go through all steps; each has its seconds, and its result or why there is none."""
    longest = max(arguments.max_context, *arguments.contexts, 0)
    name = f"recall-{arguments.engine}"
    state = StateFolder()
    document: dict[str, Any] = {
        "engine": arguments.engine, "kv_dtype": arguments.kv_dtype, "experts": arguments.experts,
        "heads": arguments.heads, "flags": arguments.flags,
    }  # fmt: skip

    def step(what: str, act: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            document[what] = {"result": act()}
        except FarspanError as error:
            document[what] = {"failed": str(error)}
        document[what]["seconds"] = round(time.monotonic() - began, 1)
        print(f"{what}: {document[what]['seconds']} s {document[what].get('failed', '')}", flush=True)

    def start() -> dict[str, Any]:
        folder = farspan.probe(
            home / "recall",
            heads=arguments.heads,
            kv_heads=arguments.heads,
            experts=arguments.experts,
            max_context=longest + ROOM_TOKENS,
        ).folder
        served = farspan.serve(
            str(folder),
            engine=arguments.engine,
            runtime="local",
            gpus=arguments.gpus,
            context=longest + ROOM_TOKENS,
            output_tokens=16,
            kv_dtype=arguments.kv_dtype,
            python=arguments.python,
            port=0,
            name=name,
            engine_flags=shlex.split(arguments.flags),
            ready_limit=arguments.ready_limit,
            if_exists="replace",
        )
        found: dict[str, Any] = served.to_json()
        return found

    def check() -> dict[str, Any]:
        return farspan.probe(check=name, max_context=arguments.max_context).to_json()

    def bench() -> dict[str, Any]:
        measured = farspan.bench(
            name,
            contexts=arguments.contexts,
            repeats=arguments.repeats,
            depths=(0.1,),
            in_order=True,
            run=home / "run",
        ).to_json()
        return {
            "engine_ttft": measured["engine_ttft"],
            "requests": [{key: request.get(key) for key in SHOWN} for request in measured["requests"]],
        }

    step("start", start)
    if "result" in document["start"]:
        step("check", check)
        if arguments.contexts:
            step("bench", bench)
        step("stop", lambda: farspan.stop(name).to_json())
    log = state.log_path(name)
    if arguments.log and log.exists():
        shutil.copyfile(log, arguments.log)
    return document


def show(document: dict[str, Any]) -> None:
    """Print what the answers were, and the times."""
    check = document.get("check", {}).get("result")
    if check:
        right = sum(answer["score"] == 1.0 for answer in check["answers"])
        print(f"{right} of {len(check['answers'])} right {check['broken']} {check['why']}")
    for request in document.get("bench", {}).get("result", {}).get("requests", ()):
        times = [request[name] for name in ("ttft_s", "engine_ttft_s", "stream_late_s", "first_token_held_s")]
        words = ["unknown" if value is None else format_seconds(value) for value in times]
        print(
            f"{format_tokens(request['context'])}: {request['status']}, TTFT {words[0]}, engine's {words[1]}, late by"
            f" {words[2]}, held {words[3]}"
        )


if __name__ == "__main__":
    main()
