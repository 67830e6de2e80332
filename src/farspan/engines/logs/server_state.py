"""Everything known of a server while its log is read: what rules look at besides the line they matched."""

from __future__ import annotations

from dataclasses import dataclass, field

from farspan.engines.logs.access import AccessLog
from farspan.engines.logs.findings import Evidence
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rates import Rates
from farspan.engines.logs.records import (
    Access,
    Arguments,
    Batch,
    EngineVersion,
    Event,
    Figure,
    LogMessage,
    Progress,
    StartPhase,
    Throughput,
    Traffic,
    Where,
    WorkBegins,
)
from farspan.engines.logs.tracebacks import Traceback, Tracebacks
from farspan.errors import InputError
from farspan.planner.versions import version_key

_ABSURD = 1e15  # no server has as many bytes, tokens or seconds; not-a-number is not below it either
_DEVICE = compile_pattern(r"device_name=(?:NVIDIA_|AMD_)?([\w.-]+?)(?:,|\.json|_down)")
_VERSIONS = compile_pattern(
    r"/python(?P<python>3\.\d+)/|cudaDriverVersion (?P<cuda>\d{4,6})|NCCL version (?P<nccl>[\d.]+(?:\+cuda[\d.]+)?)"
    r"|torch[ =]+(?P<torch>\d\.\d+\.\d+(?:\+\w+)?)|transformers[ =]+(?P<transformers>\d\.\d+\.\d+)"
    r"|flashinfer/(?P<flashinfer>\d\.\d+\.\d+)"
)
_VERSION_NAMES = {
    "python": "Python",
    "cuda": "CUDA of the driver",
    "nccl": "NCCL",
    "torch": "torch",
    "transformers": "transformers",
    "flashinfer": "FlashInfer",
}
_CAPACITY = compile_pattern(r"total capacity of (\d+(?:\.\d+)?) GiB")


@dataclass(frozen=True, slots=True)
class Hints:
    """What the user knows and the log does not say; empty where nothing is known."""

    model: str = ""
    gpu: str = ""
    engine_version: str = ""


@dataclass(slots=True)
class ServerState:
    """The state of one server as far as its log tells. A restart in the same log begins a new one."""

    hints: Hints = field(default_factory=Hints)
    engine: str = ""
    version: str = ""
    version_like: str = ""
    args: dict[str, object] = field(default_factory=dict)
    args_line: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    figure_lines: dict[str, int] = field(default_factory=dict)
    phase: StartPhase | None = None
    started: Where | None = None
    ready: Where | None = None
    died: Where | None = None
    stopped: Where | None = None
    stop_text: str = ""
    percent: float | None = None
    ready_at: float | None = None
    first_at: float | None = None
    last: Where = field(default_factory=Where)
    last_at: float | None = None
    first_error: Evidence | None = None
    explained: frozenset[int] = frozenset()
    gpu_name: str = ""
    gpu_total_gib: float | None = None
    other_versions: dict[str, str] = field(default_factory=dict)
    tracebacks: Tracebacks = field(default_factory=Tracebacks)
    rates: Rates = field(default_factory=Rates)
    access_log: AccessLog = field(default_factory=AccessLog)

    def see(self, event: Event) -> None:
        """Take one event in. Messages are the rules' business, but their tracebacks are kept here."""
        where = event.where
        if where.line >= self.last.line:
            self.last = where
        if where.at is not None:
            if self.first_at is None:
                self.first_at = where.at
            self.last_at = where.at
        if isinstance(event, Throughput):
            self.rates.see_throughput(event)
            self.tracebacks.went_on(where)
        elif isinstance(event, Access):
            self.access_log.see(event)
        elif isinstance(event, Batch):
            self.engine = self.engine or "sglang"
            self.rates.see_batch(event)
            self.tracebacks.went_on(where)
        elif isinstance(event, WorkBegins):
            self.rates.work_begins(event)
        elif isinstance(event, Traffic):
            self.access_log.answered += event.answered
        elif isinstance(event, LogMessage):
            self.tracebacks.see(event)
            self._see_gpu(event.text)
            self._see_versions(event.text)
            is_error = event.level in ("ERROR", "CRITICAL") and event.text.strip()
            if self.first_error is None and is_error and not event.text.startswith("Traceback "):
                self.first_error = Evidence(where.line, event.raw)
        elif isinstance(event, Figure):
            if abs(event.value) < _ABSURD:
                self.figures[event.name] = event.value
                self.figure_lines.setdefault(event.name, where.line)
        elif isinstance(event, Arguments):
            self.args_line = self.args_line or where.line
            self.version_like = self.version_like or event.version_like
            for name, value in event.values.items():
                self.args.setdefault(name, value)
        elif isinstance(event, EngineVersion):
            self.engine = self.engine or event.engine
            if event.version and event.engine == self.engine:
                self.version = event.version
        else:
            self._see_progress(event)

    def _see_versions(self, text: str) -> None:
        for match in _VERSIONS.finditer(text) if len(self.other_versions) < len(_VERSION_NAMES) else ():
            for group, name in _VERSION_NAMES.items():
                if match[group] is not None:
                    self.other_versions.setdefault(name, match[group])

    def _see_gpu(self, text: str) -> None:
        """Kernel settings name the GPU in their file names, and torch says how much memory it has."""
        if "device_name=" in text and not self.gpu_name:
            match = _DEVICE.search(text)
            self.gpu_name = match[1] if match is not None else ""
        elif "total capacity of" in text and self.gpu_total_gib is None:
            match = _CAPACITY.search(text)
            self.gpu_total_gib = float(match[1]) if match is not None else None

    def _see_progress(self, event: Progress) -> None:
        where = event.where
        self.started = self.started or where
        if event.phase is StartPhase.READY:
            if self.ready is None:
                self.ready, self.ready_at = where, where.at if where.at is not None else self.last_at
            self.died = None
        elif event.phase is StartPhase.DIED:
            self.died = self.died or where
        elif event.phase is StartPhase.SHUTDOWN and self.stopped is None:
            self.stopped, self.stop_text = where, event.text
        if event.phase not in (StartPhase.DIED, StartPhase.SHUTDOWN):
            self.phase = event.phase
            self.percent = event.percent if event.percent is not None else self.percent
            self.tracebacks.went_on(where)

    @property
    def died_itself(self) -> bool:
        """Whether it ended without having been told to."""
        return self.died is not None and (self.stopped is None or self.died.line < self.stopped.line)

    @property
    def failed(self) -> bool:
        """Whether it ended, or never came up, because of an error."""
        if self.died_itself:
            return True
        if self.ready is not None or self.stopped is not None or self.rates.lines or self.access_log.answered:
            return False
        return next(self.tracebacks.fatal(), None) is not None

    @property
    def is_starting(self) -> bool:
        """Whether the log breaks off in a start that nothing has ended."""
        if self.started is None or self.phase in (None, StartPhase.READY) or self.failed:
            return False
        ended = (self.ready, self.died, self.stopped)
        return all(one is None for one in ended) and not (self.rates.lines or self.access_log.answered)

    @property
    def failure(self) -> Traceback | None:
        """The first error of a server that failed; one that only passes on another where the log has no more."""
        after = self.ready.line if self.ready is not None else 0
        return self.tracebacks.first(after) if self.failed else None

    def versions(self) -> dict[str, str]:
        """What the log tells of versions: the engine's, Python's, CUDA's, NCCL's."""
        found = {
            self.engine or "engine": self.version
            or self.hints.engine_version
            or f"{self.version_like or 'not'} logged"
        }
        if not self.version and self.version_like:
            found[self.engine] = f"as {self.version_like} or later, by its arguments"
        if self.gpu_name:
            found["GPU"] = self.gpu_name
        return {**found, **self.other_versions}

    def version_below(self, version: str) -> bool | None:
        """Whether the engine is older than `version`; None when its version is not known."""
        try:
            return version_key(self.version.split("+")[0].split("rc")[0].split(".dev")[0]) < version_key(
                version
            )
        except InputError:
            return None

    def number(self, *names: str) -> float | None:
        """An argument that is a number, under the first of its names that has one."""
        for name in names:
            value = self.args.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _ABSURD:
                return float(value)
        return None

    def text(self, *names: str) -> str:
        """An argument that is text, under the first of its names that has one."""
        for name in names:
            value = self.args.get(name)
            if isinstance(value, str) and value:
                return value
        return ""

    def is_on(self, name: str) -> bool:
        """Whether a switch was given."""
        return self.args.get(name) is True

    @property
    def context(self) -> int | None:
        """The longest request the server was asked to take, in tokens."""
        value = self.number("max_model_len", "context_length")
        if value is None:
            value = self.figures.get("max_model_len", self.figures.get("context_len"))
        return None if value is None else int(value)

    @property
    def tp(self) -> int:
        """Tensor-parallel size."""
        return int(self.number("tensor_parallel_size", "tp_size") or 1)

    @property
    def model(self) -> str:
        """The model as the user names it, else as the server was given it."""
        return self.hints.model or self.text("model", "model_tag", "model_path")
