"""Putting tracebacks together from a log several processes write at once, and telling the first from the last."""

from __future__ import annotations

from dataclasses import dataclass, field

from farspan.engines.logs.findings import Evidence
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.records import LogMessage, Where

MAX_FRAMES = 64
MAX_EXCEPTIONS = 256
_PROCESSES = 256
_FRAME = compile_pattern(r'^\s*File "(?P<file>[^"]{1,500})", line (?P<line>\d+)(?:, in (?P<function>\S+))?')
_EXCEPTION = compile_pattern(
    r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Exit|Interrupt|Timeout|Expired)(?:\([\w.]+\))?)"
    r"(?:: (?P<text>.*)|\s*)$"
)
_DETAIL = compile_pattern(r"^\s*(?:Value error|Assertion failed), (?P<text>.+)")
# Exceptions that only pass on that something else failed before.
_WRAPPERS = (
    "Engine core initialization failed",
    "See root cause above",
    "See stack trace",
    "See the root cause",
    "WorkerProc initialization failed due to an exception in a background process",
    "Executor failed",
    "EngineCore encountered an issue",
    "EngineDeadError",
    "cancelled",
    "CancelledError",
    "Rank 0 scheduler is dead",
    "Initialization failed. Please see the error messages above",
    "scheduler died",
    "Scheduler died",
    "BrokenPipeError",
    "ConnectionResetError",
    "SystemExit",
    "KeyboardInterrupt",
    "Server process terminated",
    "leaked semaphore",
    "subprocess failed",
    "The actor died unexpectedly",
    "worker died",
)


@dataclass(frozen=True, slots=True)
class Traceback:
    """One exception of the log.

    Args:
        where: Place of its last line.
        type: Its class, such as `torch.OutOfMemoryError`.
        text: Its message.
        frames: (file, function) of its traceback, outermost first; may be empty.
        evidence: Its last line.
    """

    where: Where
    type: str
    text: str
    frames: tuple[tuple[str, str], ...]
    evidence: Evidence

    @property
    def is_wrapper(self) -> bool:
        """Whether it only passes on an earlier failure."""
        return any(word in self.type or word in self.text for word in _WRAPPERS)

    @property
    def place(self) -> str:
        """Where it was raised, as `memory_pool.py: _create_buffers`; empty when the log does not say."""
        if not self.frames:
            return ""
        file, function = self.frames[-1]
        return f"{file.rsplit('/', 1)[-1]}: {function}" if function else file.rsplit("/", 1)[-1]


@dataclass(slots=True)
class Tracebacks:
    """Collects exceptions from messages, one traceback a process at a time. Bounded."""

    exceptions: list[Traceback] = field(default_factory=list)
    _open: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def frames(self, process: str) -> tuple[tuple[str, str], ...]:
        """The traceback this process is in the middle of."""
        return tuple(self._open.get(process, ()))

    def see(self, message: LogMessage) -> Traceback | None:
        """Read one message; return the exception it ends, if it ends one."""
        text, process = message.text, message.where.process
        if "Traceback (most recent call last)" in text:
            if len(self._open) < _PROCESSES or process in self._open:
                self._open[process] = []
            return None
        frame = _FRAME.match(text)
        if frame is not None:
            frames = self._open.setdefault(process, []) if len(self._open) < _PROCESSES else []
            frames.append((frame["file"], frame["function"] or ""))
            if len(frames) > MAX_FRAMES:
                del frames[0]
            return None
        detail = _DETAIL.match(text)
        if detail is not None and self.exceptions and self.exceptions[-1].where.process == process:
            # pydantic gives its reason on the line after the exception.
            last = self.exceptions[-1]
            if "validation error" in last.text:
                self.exceptions[-1] = Traceback(
                    message.where,
                    last.type,
                    detail["text"],
                    last.frames,
                    Evidence(message.where.line, message.raw),
                )
            return None
        match = _EXCEPTION.match(text)
        if match is None:
            return None
        found = Traceback(
            message.where,
            match["type"],
            match["text"] or "",
            tuple(self._open.pop(process, ())),
            Evidence(message.where.line, message.raw),
        )
        if len(self.exceptions) < MAX_EXCEPTIONS:
            self.exceptions.append(found)
        return found

    def first(self, after_line: int = 0, explained: frozenset[int] = frozenset()) -> Traceback | None:
        """The exception that came first and is not merely passed on, from a line on, `explained` lines left out."""
        later = [
            one for one in self.exceptions if one.where.line > after_line and one.where.line not in explained
        ]
        return next((one for one in later if not one.is_wrapper), later[0] if later else None)
