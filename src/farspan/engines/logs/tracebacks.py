"""Finding the first error of a log: by how errors are written, not by their names.

Several processes write at once, and most of what a failed server prints only passes on that something else failed
before. Three kinds of lines tell of an error: the last line of a Python traceback (whatever its exception is called),
what a child process or the C++ below says (a compiler, a linker, an abort), and wrappers of either. The first that is
no wrapper, and that its process did not survive, is the cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from farspan.engines.logs.findings import Evidence
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.records import LogMessage, Where

MAX_FRAMES = 64
MAX_EXCEPTIONS = 256
_PROCESSES = 256
_TEXT = 2_000
_CALM = ("DEBUG", "INFO", "WARNING")
_BEGIN = "Traceback (most recent call last)"
_FRAME = compile_pattern(
    r'^\s*(?:\|\s*)?File "(?P<file>[^"]{1,500})", line (?P<line>\d+)(?:, in (?P<function>\S+))?'
)
_ANY_EXCEPTION = compile_pattern(r"^(?P<type>[A-Za-z_][\w.]*(?:\([\w.]+\))?)(?::(?:\s(?P<text>.*))?)?\s*$")
_NAMED_EXCEPTION = compile_pattern(
    r"^(?:- )?(?P<type>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Exit|Interrupt|Timeout|"
    r"Expired)(?:\([\w.]+\))?)"
    r"(?::(?:\s(?P<text>.*))?|\s*)$"
)
_DETAIL = compile_pattern(r"^\s*(?:Value error|Assertion failed), (?P<text>.+)")
_INNER = compile_pattern(
    r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception))(?:: (?P<text>.*))$"
    r"|Worker failed with error '(?P<said>.{3,900}?)'(?:, please check|$)"
)
# What is no exception and yet the reason: a child's own words, or an abort below Python.
_NATIVE = compile_pattern(
    r"^\s*(?:"
    r"ptxas (?:fatal|error)|nvcc fatal|nvlink (?:fatal|error)|ninja: error|g?cc: error|clang: error|"
    r"collect2: error"
    r"|\S+: (?:fatal )?error: |/\S*\bld: |ld: cannot find|/bin/sh: .{0,300}: (?:not found|Permission denied)"
    r"|\S+\(\d+\): (?:fatal )?error\b|make: \*\*\*"
    r"|Failed: Cuda error |[Cc]uda error |CUDA error |CUDA Error|HIP error|Cuda failure|CUTLASS "
    r"error|NVRTC_ERROR|NVRTC "
    r"|Memory access fault by GPU|HSA_STATUS_ERROR|HW Exception by GPU|terminate called |what\(\): |"
    r"TMA Desc Addr"
    r"|Error: Failed to initialize the TMA descriptor|Fatal Python error: |free\(\): |double free|"
    r"munmap_chunk|malloc"
    r"|corrupted |Segmentation fault|Bus error|Aborted|Illegal instruction|symbol lookup error"
    r"|\S+: symbol lookup error|\S+: error while loading shared libraries|OCI runtime |exec \S+: |"
    r"exec format error"
    r"|F\d{4} [\d:.]+ |\(autoscaler .{0,200}Error: "
    r")|Assertion `.{1,300}' failed|Assertion .{1,300} failed\.?\s*$|\.cuh?:\d+\b.{0,200}(?:[Ee]rror|[Ff]ail)"
    r"|Failed: Cuda error |NCCL WARN Cuda failure"
)
# Types and words of exceptions that only pass on that something else failed before.
_WRAPPER_TYPES = (
    "CalledProcessError", "EngineDeadError", "EngineGenerateError", "CancelledError", "InductorError",
    "BackendCompilerFailed", "LoweringException", "PTXASError", "RayTaskError", "ActorDiedError", "RayActorError",
    "WorkerCrashedError", "BrokenPipeError", "ConnectionResetError", "SystemExit", "KeyboardInterrupt", "EOFError",
    "ChildProcessError", "ProcessRaisedException", "ProcessExitedException", "ChildFailedError", "MQEngineDeadError",
    "AsyncEngineDeadError", "RemoteTraceback", "GeneratorExit", "ExceptionGroup", "BaseExceptionGroup",
    "IncompleteReadError", "WorkerDiedError", "RemoteException", "ClientDisconnect", "ClientConnectionError",
)  # fmt: skip
_WRAPPER_WORDS = (
    "Engine core initialization failed", "See root cause", "See stack trace", "See the root cause", "root cause above",
    "WorkerProc initialization failed due to an exception in a background process", "Executor failed",
    "EngineCore encountered", "cancelled", "Rank 0 scheduler is dead", "scheduler died", "Scheduler died",
    "Initialization failed. Please see the error messages above", "Server process terminated", "leaked semaphore",
    "subprocess failed", "The actor died unexpectedly", "worker died", "Worker failed with error", "Ninja build failed",
    "Engine process failed to start", "Capture cuda graph failed", "Capture CUDA graph failed",
    "Error executing method",
    "Internal Triton PTX codegen error", "Error building extension", "died unexpectedly", "backend='inductor' raised",
    "Engine loop is not running", "Background loop has errored", "Failed core proc", "Detected errors in child",
    "One or more tokenizer workers died", "Engine loop has died", "Task finished unexpectedly", "dead. error_code",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Traceback:
    """One error of the log.

    Args:
        where: Place of its last line.
        type: Its class, such as `torch.OutOfMemoryError`; empty for the words of a child process.
        text: Its message; of a bare assertion, the source line.
        frames: (file, function) of its traceback, outermost first; may be empty.
        evidence: Its last line.
        in_traceback: Whether it ended a traceback, and was no mere line of an exception's form.
    """

    where: Where
    type: str
    text: str
    frames: tuple[tuple[str, str], ...]
    evidence: Evidence
    in_traceback: bool = False

    @property
    def is_wrapper(self) -> bool:
        """Whether it only passes on an earlier failure."""
        if not self.type:
            return False
        name = self.type.partition("(")[0].rpartition(".")[2]
        return name in _WRAPPER_TYPES or any(
            words in self.text or words in self.type for words in _WRAPPER_WORDS
        )

    @property
    def short(self) -> str:
        """Class and message in a line."""
        return f"{self.type}: {self.text}" if self.type and self.text else self.type or self.text

    @property
    def place(self) -> str:
        """Where it was raised, as `memory_pool.py: _create_buffers`; empty when the log does not say."""
        if not self.frames:
            return ""
        file, function = self.frames[-1]
        return f"{file.rsplit('/', 1)[-1]}: {function}" if function else file.rsplit("/", 1)[-1]

    def raised_in(self, *names: str) -> bool:
        """Whether the traceback goes through one of these files or functions."""
        return any(name in file or name == function for file, function in self.frames for name in names)


@dataclass(slots=True)
class _OpenTraceback:
    frames: list[tuple[str, str]] = field(default_factory=list)
    source: str = ""


@dataclass(slots=True)
class Tracebacks:
    """Collects errors from messages, one traceback a process at a time. Bounded."""

    exceptions: list[Traceback] = field(default_factory=list)
    _open: dict[str, _OpenTraceback] = field(default_factory=dict)
    _alive: dict[str, int] = field(default_factory=dict)
    _unprefixed: str = ""

    def frames(self, process: str) -> tuple[tuple[str, str], ...]:
        """The traceback this process is in the middle of."""
        opened = self._open.get(process or self._unprefixed)
        return tuple(opened.frames) if opened is not None else ()

    def went_on(self, where: Where) -> None:
        """Note that a process did something else: whatever it raised before, it survived."""
        if where.process in self._alive or len(self._alive) < _PROCESSES:
            self._alive[where.process] = where.line

    def see(self, message: LogMessage) -> Traceback | None:
        """Read one message; return the error it tells of, if it tells of one."""
        text, process = message.text, message.where.process
        if _BEGIN in text:
            # SGLang prefixes the first line only: what follows without a prefix belongs to that process.
            self._unprefixed = process
            if len(self._open) < _PROCESSES or process in self._open:
                self._open[process] = _OpenTraceback()
            return None
        process = process or self._unprefixed
        opened = self._open.get(process)
        frame = _FRAME.match(text)
        if frame is not None:
            if opened is None and len(self._open) < _PROCESSES:
                opened = self._open[process] = _OpenTraceback()
            if opened is not None:
                opened.frames.append((frame["file"], frame["function"] or ""))
                del opened.frames[:-MAX_FRAMES]
            return None
        if opened is not None and opened.frames and (text.startswith("    ") or not text.strip(" ^~|+-")):
            opened.source = text.strip() if text.strip(" ^~|+-") else opened.source
            return None
        return self._see_end(message, process, opened)

    def _see_end(self, message: LogMessage, process: str, opened: _OpenTraceback | None) -> Traceback | None:
        text, last = message.text, self.exceptions[-1] if self.exceptions else None
        evidence = Evidence(message.where.line, message.raw)
        where = message.where._replace(process=process)
        if (
            last is not None
            and last.where.process == process
            and not self._see_more(last, text, where, evidence)
        ):
            return None
        in_traceback = opened is not None and bool(opened.frames)
        if message.level in _CALM:  # a traceback that was caught, and logged as a warning
            self._open.pop(process, None)
            return None
        match = (_ANY_EXCEPTION if in_traceback else _NAMED_EXCEPTION).match(text)
        if match is not None:
            self._open.pop(process, None)
            said = (match["text"] or "")[:_TEXT]
            source = opened.source if opened is not None else ""
            if not said and match["type"].endswith("AssertionError") and source:
                said = source
            frames = tuple(opened.frames) if opened is not None else ()
            return self._keep(Traceback(where, match["type"], said, frames, evidence, in_traceback))
        if message.level not in _CALM and _NATIVE.search(text):
            return self._keep(Traceback(where, "", text.strip()[:_TEXT], (), evidence))
        return None

    def _see_more(self, last: Traceback, text: str, where: Where, evidence: Evidence) -> bool:
        """Add a line to the error before it where it belongs there; whether it may be an error of its own."""
        detail = _DETAIL.match(text)
        if detail is not None:
            # pydantic gives its reason on the line after the exception.
            if "validation error" in last.text:
                self.exceptions[-1] = replace(last, where=where, text=detail["text"], evidence=evidence)
            return False
        if (
            last.type
            and not last.text
            and text.strip()
            and not _NATIVE.search(text)
            and 0 < where.line - last.where.line <= 3
        ):
            self.exceptions[-1] = replace(last, text=text.strip()[:_TEXT])
            return False
        return True

    def _keep(self, found: Traceback) -> Traceback:
        found = _unwrapped(found)
        if len(self.exceptions) < MAX_EXCEPTIONS:
            self.exceptions.append(found)
        return found

    def survived(self, error: Traceback) -> bool:
        """Whether its process did something else afterwards; of a line without a process nobody knows."""
        if not error.type and not error.where.process:
            return False
        return self._alive.get(error.where.process, 0) > error.where.line

    def fatal(self, after_line: int = 0, explained: frozenset[int] = frozenset()) -> Iterator[Traceback]:
        """The errors nobody survived, in log order: from a line on, `explained` lines left out."""
        for error in self.exceptions:
            if (
                error.where.line > after_line
                and error.where.line not in explained
                and not self.survived(error)
            ):
                yield error

    def first(self, after_line: int = 0, explained: frozenset[int] = frozenset()) -> Traceback | None:
        """The error that came first and is not merely passed on; else the first that is."""
        errors = list(self.fatal(after_line, explained))
        return next((one for one in errors if not one.is_wrapper), errors[0] if errors else None)


def _unwrapped(error: Traceback) -> Traceback:
    """An error that quotes the one it passes on, as that one: `InductorError: RuntimeError: why`."""
    for _ in range(4):
        inner = _INNER.search(error.text) if error.is_wrapper else None
        if inner is None:
            return error
        if inner["said"] is not None:
            if any(words in inner["said"] for words in _WRAPPER_WORDS):
                return error
            error = replace(error, type="RuntimeError", text=inner["said"])
        else:
            error = replace(error, type=inner["type"], text=inner["text"])
    return error
