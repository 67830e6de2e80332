"""Run folders for reports: the plan from the planner, the log from a real server, results through the bench's store."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from click.testing import CliRunner

from farspan.cli.plan import command as plan_command
from farspan.measurement.http.target import ServerInfo
from farspan.measurement.runs.result import Gaps, Result
from farspan.measurement.runs.run_folder import Identity, Run, load_run, new_start, open_run
from farspan.measurement.runs.series import SeriesStore
from samples import make_result

EVIDENCE = Path(__file__).parents[1] / "evidence" / "real"
VLLM_LOG = EVIDENCE / "vllm-0.24.0-scout-shard.log"
SGLANG_LOG = EVIDENCE / "sglang-0.5.16-scout-shard-ok.log"
FAILED_LOG = EVIDENCE / "sglang-0.5.16-scout-shard-oom.log"
BEGAN = 1_767_225_600.0  # 2026-01-01


def make_plan(*contexts: str) -> dict[str, Any]:
    """Plan Scout on 8 H200 with every engine, as `farspan plan --json` prints it; one context gives a ledger."""
    return orjson.loads(_print_plan(contexts))


@cache
def _print_plan(contexts: tuple[str, ...]) -> str:
    lengths = ["--contexts", ",".join(contexts)] if len(contexts) > 1 else ["--context", contexts[0]]
    outcome = CliRunner().invoke(plan_command, ["llama-4-scout", "--gpus", "8xH200", *lengths, "--json"])
    return outcome.output


def write_engine_run(
    folder: Path,
    results: Iterable[Result],
    *,
    owner: str = "vllm",
    version: str = "0.24.0",
    model: str = "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    plan: Mapping[str, Any] | None = None,
    log: Path | None = None,
    series: Mapping[str, Mapping[float, Mapping[str, float]]] | None = None,
    gpus: int = 0,
    task: str = "needle",
    arguments: Mapping[str, Any] | None = None,
) -> Run:
    """Write a run folder of an engine.

    Args:
        series: Source to time (seconds since `BEGAN`) to measure to value.
        gpus: How many H200 the client's machine has.
    """
    server = ServerInfo("http://127.0.0.1:8000", model, None, 10_000_000, owner, version)
    identity = Identity(model, "completions", "ids", task, 7, False)
    start = new_start({"concurrency": 1, **(arguments or {})}, server)
    with open_run(folder, identity, start) as store:
        machine = {"processor": "a CPU", "gpus": [{"name": "NVIDIA H200", "memory_bytes": 150 << 30}] * gpus}
        store.keep_environment({"client": machine, "server": server, "server_settings": None, "plan": plan})
        store.add_all(list(results))
    if log is not None:
        shutil.copyfile(log, folder / "server.log")
    if series:
        readings = SeriesStore(folder, 0)
        for source, times in series.items():
            for time, values in times.items():
                readings.add(BEGAN + time, {source: values}, {})
        readings.close()
    return load_run(folder)


def scout_results(
    slower: float = 1.0, contexts: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
) -> list[Result]:
    """Return three repeats at two depths of every context, one request after another, TTFT growing with its square."""
    results, at = [], 0.0
    for context in contexts:
        for depth in (0.1, 0.9):
            for repeat in range(3):
                ttft = slower * (2e-5 * context + 2.2e-11 * context**2) * (1 + 0.01 * repeat + 0.005 * depth)
                gap = slower * (0.009 + 2.6e-9 * context)
                times = tuple(ttft + gap * token for token in range(200))
                results.append(
                    make_result(
                        context=context, depth=depth, repeat=repeat, prompt_tokens=context, output_tokens=200,
                        started_at=iso(at), ttft_s=ttft, itl_s=Gaps(gap, gap, gap * 1.2), e2e_s=times[-1],
                        prefill_tokens_per_s=context / ttft, token_times_s=times, tpot_s=gap,
                        decode_tokens_per_s=1 / gap, prompt_id=f"{context}-{depth}-{repeat}",
                    )
                )  # fmt: skip
                at += times[-1] + 1.0
    return results


def usage_series(
    results: Iterable[Result], capacity: int = 16_000_000
) -> dict[str, dict[float, dict[str, float]]]:
    """Return what an engine with a fixed pool would have said while these ran: its usage grows with the prefill."""
    engine, gpu = {}, {}
    at = 0.0
    for result in results:
        steps = max(4, int((result.ttft_s or 0.0) / 60))
        for share in (step / steps for step in range(steps + 1)):
            time = at + share * (result.ttft_s or 0.0)
            held = share * result.context
            engine[time] = {
                "kv_usage": held / capacity,
                "kv_tokens": held,
                "kv_capacity_tokens": float(capacity),
            }
            gpu[time] = {"memory_used_bytes": 132.0 * 2**30, "memory_total_bytes": 140.0 * 2**30}
        at += result.e2e_s + 1.0
    return {"engine": engine, "gpu0": gpu}


def iso(seconds: float) -> str:
    """Return a time of the test's day as results have it."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(BEGAN + seconds, UTC).isoformat(timespec="milliseconds")
