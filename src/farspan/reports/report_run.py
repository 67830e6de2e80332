"""One run of a report with all that belongs to it: results, plan, time series, the server's log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from farspan.diagnosis.diagnose import Report as LogReport
from farspan.diagnosis.examine import examine
from farspan.diagnosis.sources import read_source
from farspan.engines.registry import find_served
from farspan.errors import InputError
from farspan.measurement.http.target import is_local
from farspan.measurement.runs.environment import read_document
from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import ENVIRONMENT_FILE, INFO_FILE, Run, load_run
from farspan.measurement.runs.series import Reading, read_series
from farspan.reports.expectation import Expectation, find_expectation

LOG_NAMES = ("server.log", "server.log.gz")
# More curves than this in one chart cannot be told apart.
MOST_RUNS = 6
# Of the hundreds of settings SGLang prints, those that decide about memory, length and speed.
_SHOWN_SETTINGS = (
    "tp_size", "tensor_parallel_size", "dp_size", "pipeline_parallel_size", "context_length", "max_model_len",
    "mem_fraction_static", "gpu_memory_utilization", "kv_cache_dtype", "quantization", "dtype", "attention_backend",
    "chunked_prefill_size", "max_running_requests", "max_num_seqs", "max_num_batched_tokens", "swa_full_tokens_ratio",
    "disable_cuda_graph", "enforce_eager", "disable_radix_cache", "enable_prefix_caching", "enable_hierarchical_cache",
    "disable_hybrid_swa_memory", "disable_hybrid_kv_cache_manager", "load_format", "max_total_tokens", "page_size",
    "device", "kv_cache_gib", "kv_host_gib", "kv_segment_mib",
)  # fmt: skip
_HIDDEN_WHEN_ONE = ("dp_size", "pipeline_parallel_size", "page_size")


@dataclass(frozen=True, slots=True)
class ReportRun:
    """One run and what is known about it.

    Args:
        key: `a`, `b`, ...: its name in drawings and anchors.
        name: What tells it from the other runs of the report.
        recorded: The run folder, as the bench or an import wrote it.
        results: The measured requests, by context, depth and repeat; warm-up and cool-down are not in it.
        unmeasured: How many requests were warm-up or cool-down.
        plan: The plan it was started with, or one given; None without.
        series: Source to measure to readings.
        log: What the doctor read in the server's log; None without a log.
        log_name: The log's file name.
        environment: The last start's, as the bench kept it; empty for imported runs.
        tool: Who measured it, when it was not farspan.
    """

    key: str
    name: str
    recorded: Run
    results: tuple[Result, ...]
    unmeasured: int
    plan: Expectation | None
    series: Mapping[str, Mapping[str, tuple[Reading, ...]]]
    log: LogReport | None
    log_name: str
    environment: Mapping[str, Any]
    tool: str

    @property
    def engine(self) -> str:
        """The engine and its version in words; empty when neither is known."""
        server = self.recorded.info.starts[-1].server
        named = (server.owned_by or (self.log.engine if self.log else "")).strip()
        version = server.version or (self.log.version if self.log else "")
        return " ".join(part for part in (name_engine(named), version or "") if part)

    @property
    def model(self) -> str:
        """The model's name without the folders before it."""
        return (
            self.recorded.info.identity.model.rstrip("/").rpartition("/")[2]
            or self.recorded.info.identity.model
        )

    def readings(self, measure: str, source: str = "engine") -> tuple[Reading, ...]:
        """Return a measure's readings; none when the series does not have it."""
        return self.series.get(source, {}).get(measure, ())

    def hardware(self) -> str:
        """Say what the server ran on, as far as that is known; empty when it is not."""
        log_gpu = self.log.server_state.gpu_name if self.log else ""
        if not self.tool and is_local(self.recorded.info.starts[-1].server.url):
            machine = self.environment.get("client")
            gpus = machine.get("gpus") if isinstance(machine, dict) else None
            names = Counter(str(gpu.get("name")) for gpu in gpus or () if isinstance(gpu, dict))
            if names:
                return ", ".join(f"{count}x {name}" for name, count in names.items())
            if isinstance(machine, dict) and not log_gpu:
                cpus = self.recorded.info.starts[-1].environment.get("cpus", "")
                return f"{cpus} CPUs" if cpus.isdecimal() else "CPU"
        if log_gpu:
            size = self.argument("tp_size", "tensor_parallel_size")
            return f"{size}x {log_gpu}" if size is not None else log_gpu
        return ""

    def argument(self, *names: str) -> object | None:
        """Return the first of these settings that the server's log or the server itself reports."""
        sources = (
            self.log.server_state.args if self.log else {},
            self.environment.get("server_settings") or {},
        )
        for source in sources:
            for name in names:
                if isinstance(source, Mapping) and source.get(name) is not None:
                    return source[name]
        return None

    def flags(self) -> str:
        """Return all that farspan started the server with, else those settings that matter and the server reports, as
        command line flags; empty when neither is known.
        """
        launch = self.environment.get("launch")
        if isinstance(launch, Mapping) and launch.get("flags"):
            return str(launch["flags"])
        known: dict[str, object] = {}
        for name in _SHOWN_SETTINGS:
            value = self.argument(name)
            if value is not None and value is not False and (value != 1 or name not in _HIDDEN_WHEN_ONE):
                known[name] = value
        return " ".join(
            f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            for name, value in known.items()
        )


def name_engine(name: str) -> str:
    """Return an engine's name as people write it."""
    engine = find_served(name)
    return engine.title if engine is not None else name


def expand_folders(folders: Sequence[Path]) -> list[Path]:
    """Replace the folder of a bench of several engines by its runs.

    Raises:
        InputError: There are none, or too many.
    """
    found: list[Path] = []
    for folder in folders:
        inner = [] if (folder / INFO_FILE).is_file() else sorted(folder.glob(f"*/{INFO_FILE}"))
        found += [path.parent for path in inner] or [folder]
    found = list(dict.fromkeys(found))
    if len(found) > MOST_RUNS:
        raise InputError(
            f"{len(found)} runs are too many for one page",
            f"name up to {MOST_RUNS} of them, or make several reports",
        )
    return found


def load_report_runs(
    folders: Sequence[Path], *, logs: Sequence[Path] = (), plan: Path | None = None
) -> tuple[ReportRun, ...]:
    """Read run folders with all that lies beside their results.

    Args:
        folders: Run folders, or the folder of a bench of several engines.
        logs: The servers' logs, in the order of the runs. By default `server.log` in the run folder, if there is one.
        plan: A file of `farspan plan --json`, for runs that were not started with one.

    Raises:
        InputError: A folder is not a run, a log or the plan cannot be read, or there are more logs than runs.
    """
    expanded = expand_folders(folders)
    if len(logs) > len(expanded):
        raise InputError(
            f"there are {len(logs)} logs and {len(expanded)} runs", "give one --log a run, in the same order"
        )
    runs = [
        _load(folder, chr(ord("a") + index), logs[index] if index < len(logs) else None, plan)
        for index, folder in enumerate(expanded)
    ]
    return _name_apart(runs)


def _load(folder: Path, key: str, log: Path | None, plan: Path | None) -> ReportRun:
    recorded = load_run(folder)
    measured = [result for result in recorded.results if result.phase is LoadPhase.MEASURED]
    environment = _last_environment(folder)
    last = recorded.info.starts[-1]
    log = log or next((folder / name for name in LOG_NAMES if (folder / name).is_file()), None)
    report = examine(read_source(str(log))) if log else None
    return ReportRun(
        key=key,
        name="",
        recorded=recorded,
        results=tuple(sorted(measured, key=lambda r: (r.context, r.depth, r.repeat, r.seed))),
        unmeasured=len(recorded.results) - len(measured),
        plan=find_expectation(folder, last.server.owned_by, plan),
        series=read_series(folder),
        log=report,
        log_name=log.name if log else "",
        environment=environment,
        tool=str(last.arguments.get("imported_from") or ""),
    )


def _last_environment(folder: Path) -> Mapping[str, Any]:
    document = read_document(folder / ENVIRONMENT_FILE)
    starts = document.get("starts") if isinstance(document, dict) else None
    last = starts[-1] if isinstance(starts, list) and starts else None
    return last if isinstance(last, dict) else {}


def _name_apart(runs: Sequence[ReportRun]) -> tuple[ReportRun, ...]:
    """Name every run by its engine; where that is the same or unknown, by its folder too."""
    engines = Counter(run.engine for run in runs)
    named = []
    for run in runs:
        folder = run.recorded.folder.resolve().name
        plain = re.sub(r"\s+", " ", run.engine)
        if not plain:
            name = folder
        elif engines[run.engine] > 1:
            name = f"{plain}, {folder}"
        else:
            name = plain
        named.append(replace(run, name=name))
    counted = Counter(run.name for run in named)
    return tuple(
        replace(run, name=f"{run.key.upper()}: {run.name}") if counted[run.name] > 1 else run for run in named
    )
