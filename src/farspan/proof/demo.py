"""The demo: a real server, real requests, exact lengths and checked answers on this machine, in a few
minutes.

It writes the recall checkpoint and proves it on the built-in engine as `farspan prove` proves any model: served as
a process of its own, measured, reported. What is special is the time limit, and how many contexts fit into it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from farspan.engines.builtin.engine import ENGINE
from farspan.errors import InputError
from farspan.launch.engine_python import check_modules
from farspan.launch.local import read_tail
from farspan.launch.prepare_launch import NO_GPU, prepare
from farspan.launch.runtime import Runtime
from farspan.launch.runtimes.process import LocalRuntime
from farspan.launch.serve import ServeWatcher, serving
from farspan.launch.serve_options import ServeOptions
from farspan.launch.server_records import StateFolder
from farspan.launch.start_watch import StartupWatch
from farspan.measurement.analysis.summary import summarise
from farspan.measurement.http.request_status import Status
from farspan.measurement.observe.engine_observer import EngineObserver
from farspan.measurement.options import BenchOptions
from farspan.measurement.progress import Watcher
from farspan.measurement.run import run_bench
from farspan.measurement.runs.bench_outcome import BenchOutcome
from farspan.measurement.runs.result import Result
from farspan.proof.keep_log import keep_log
from farspan.reports.drawing import check_drawing
from farspan.reports.write_report import ReportFiles, write_report
from farspan.sizes import format_seconds, format_tokens

DEFAULT_CONTEXTS = (4_000, 16_000, 64_000)
EXTRA_CONTEXT = 128_000
OUTPUT_TOKENS = 16
# Attention is nearly all of the time at these lengths, and grows with the heads: two still make a wrong one show.
HEADS = 2
_REPORT_S = 5.0  # kept free for the report
_METRICS_S = 0.5  # often enough for a picture of the KV cache's memory in a run of half a minute
_SAFETY = 1.5  # on a predicted time: the machine may do other things too
# Only of these does the server's log say more than the result.
_SERVER_FAILED = (Status.SERVER_ERROR, Status.UNREACHABLE, Status.CUT, Status.REFUSED, Status.WRONG_LENGTH)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo does.

    Args:
        folder: Where the checkpoint, the results, the server's log and the report go; must be empty or
            missing.
        contexts: Prompt lengths in tokens, all of which must be proven. None takes 4k, and as many of 16k, 64k and
            128k as there is time for.
        depths: Where the needle goes.
        time_limit_s: Longest time for everything, in seconds.
        ready_limit_s: Longest time for the server to start, in seconds.
    """

    folder: Path
    contexts: tuple[int, ...] | None = None
    depths: tuple[float, ...] = (0.1, 0.9)
    time_limit_s: float = 110.0
    ready_limit_s: float = 90.0


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What the demo did.

    Args:
        folder: Where everything is.
        bench: Every request and its result.
        report: The report's files.
        startup_s: From starting the server to its first answer.
        total_s: From beginning to end.
        extra: Why 128k was or was not measured; empty when the contexts were given.
        left_out: The contexts that there was no time for, though nobody asked for them.
        unsent: How many requests were left unsent of those that must be proven.
        server_tail: The last lines of the server's log when something failed.
    """

    folder: Path
    bench: BenchOutcome
    report: ReportFiles
    startup_s: float
    total_s: float
    extra: str
    server_tail: tuple[str, ...]
    left_out: tuple[int, ...] = ()
    unsent: int = 0

    @property
    def good(self) -> bool:
        """Whether every answer is right, and every context is proven that must be."""
        return not self.bench.failed and not self.unsent

    def to_json(self) -> dict[str, Any]:
        """Folder, verdict, times, the report's files, and the results."""
        return {
            "folder": str(self.folder),
            "good": self.good,
            "startup_s": self.startup_s,
            "total_s": self.total_s,
            "extra": self.extra,
            "left_out": list(self.left_out),
            "report": self.report.to_json(),
            "bench": summarise(self.bench),
        }


async def run_demo(options: DemoOptions, *, watcher: Watcher | None = None) -> DemoOutcome:
    """Run the demo. However it ends, the server it started is gone.

    Args:
        options: What to do.
        watcher: Told what happens as it happens.

    Raises:
        InputError: The folder is in use, or a package is missing.
        LaunchError: The server did not start.
    """
    begun = time.monotonic()
    watcher = watcher or Watcher()
    check_packages()
    _claim(options.folder)
    from farspan.models.probe import write_probe

    watcher.step("writing the recall checkpoint")
    checkpoint = options.folder / "recall"
    await asyncio.to_thread(write_probe, checkpoint, num_attention_heads=HEADS, num_key_value_heads=HEADS)
    runtime = _prepare_server(checkpoint)
    launch = runtime.launch
    watcher.step(f"starting the built-in engine on {launch.url}")
    async with serving(
        runtime,
        state=StateFolder(options.folder / "servers"),
        ready_limit_s=options.ready_limit_s,
        watcher=_StartLines(watcher),
    ) as server:
        startup_s = server.report.ready_s
        watcher.step(f"the server answers after {format_seconds(startup_s)}")

        async def sweep(contexts: tuple[int, ...], *, keep_cut: bool = False) -> BenchOutcome:
            wanted = BenchOptions(
                url=server.url,
                launched=server.record.describe_launch(),
                run=options.folder / "run",
                contexts=contexts,
                depths=options.depths,
                output_tokens=OUTPUT_TOKENS,
                tokenizer=checkpoint,
                in_order=True,
                resume=True,
                keep_cut=keep_cut,
                time_limit_s=max(1.0, options.time_limit_s - _REPORT_S - (time.monotonic() - begun)),
            )
            return await run_bench(
                wanted, watcher=watcher, observers=(EngineObserver(interval_s=_METRICS_S),)
            )

        must = options.contexts or DEFAULT_CONTEXTS[:1]
        may = () if options.contexts else DEFAULT_CONTEXTS[1:]
        bench = await sweep(must, keep_cut=True)
        unsent, extra = bench.unsent, ""
        for context in may:
            if not bench.good:
                break
            bench = await sweep((context,))
        if options.contexts is None and bench.good:
            left = options.time_limit_s - _REPORT_S - (time.monotonic() - begun)
            needed = len(options.depths) * predict_seconds(bench.results, EXTRA_CONTEXT) * _SAFETY
            extra = (
                f"{format_tokens(EXTRA_CONTEXT)} needs about {format_seconds(needed)} by the rates measured,"
                f" {format_seconds(max(left, 0.0))} are left"
            )
            if needed < left:
                watcher.step(f"{extra}: measuring it too")
                bench = await sweep((EXTRA_CONTEXT,))
            else:
                watcher.step(f"{extra}: leaving it out")
        proven = Counter(result.context for result in bench.results)
        left_out = tuple(context for context in may if proven[context] < len(options.depths))
        if left_out and not bench.failed:
            watcher.step(f"not measured, no time left: {', '.join(map(format_tokens, left_out))}")
        failed = any(result.status in _SERVER_FAILED for result in bench.failed)
        tail = read_tail(server.log, 15) if failed else ()
        keep_log(server, options.folder)
        keep_log(server, options.folder / "run")
    report = await asyncio.to_thread(write_report, [options.folder / "run"], options.folder)
    return DemoOutcome(
        folder=options.folder,
        bench=bench,
        report=report,
        startup_s=startup_s,
        total_s=time.monotonic() - begun,
        extra=extra,
        server_tail=tail,
        left_out=left_out,
        unsent=unsent,
    )


def predict_seconds(results: Sequence[Result], context: int) -> float:
    """Predict how long a request of `context` tokens takes, in seconds, from shorter ones.

    Prefill is part linear (weights) and part quadratic (attention): t(n) = a n + b n^2 with a, b >= 0,
    drawn through the medians of the two longest contexts. A single context gives the quadratic alone,
    which is never too short.
    """
    times: dict[int, list[float]] = {}
    for result in results:
        if result.ttft_s is not None:
            times.setdefault(result.context, []).append(result.e2e_s)
    points = [(n, median(seconds)) for n, seconds in sorted(times.items())][-2:]
    if not points:
        return float("inf")
    n2, t2 = points[-1]
    if len(points) == 1:
        return t2 * (context / n2) ** 2
    n1, t1 = points[0]
    quadratic = min(max((t2 / n2 - t1 / n1) / (n2 - n1), 0.0), t2 / n2**2)
    linear = t2 / n2 - quadratic * n2
    return linear * context + quadratic * context**2


def check_packages() -> None:
    """Refuse to begin without the packages that the demo's last step may need.

    Raises:
        InputError: One is missing.
    """
    check_modules(ENGINE)
    check_drawing()


def _claim(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror})", "pass another folder with -o"
        ) from error
    if not empty:
        raise InputError(f"{folder} is not empty", "pass another folder with -o")


class _StartLines(ServeWatcher):
    """Shows how the start goes as the waiting of a demo."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def progress(self, seconds: float, watch: StartupWatch) -> None:
        """Show the phase."""
        self._watcher.waiting(seconds, watch.current)


def _prepare_server(checkpoint: Path) -> Runtime:
    # No prompt comes twice, so that what a request leaves may go at once: the report shows memory come and go.
    # The checkpoint is tiny: with segments of the usual size one would hold most prompts.
    flags = ("--keep-prefixes-s", "0", "--kv-quiet-s", "1", "--kv-segment-mib", "2")
    wanted = ServeOptions(str(checkpoint), ENGINE, "local", gpus=NO_GPU, name="demo", port=0, words=flags)
    return LocalRuntime(prepare(wanted).launch)
