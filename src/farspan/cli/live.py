"""A bench's progress, live on a terminal and line by line anywhere else; always on standard error."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from farspan.cli.lines import LineView
from farspan.escape_terminal import printable
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import ServerInfo
from farspan.measurement.progress import Watcher
from farspan.measurement.runs.job import Job, LoadPhase
from farspan.measurement.runs.result import Result
from farspan.sizes import format_seconds, format_tokens

_SHOWN_RUNNING = 8
_QUIET_S = 60.0


class PlainWatcher(LineView, Watcher):
    """Writes one line for every finished request, and now and then how far those under way are."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._total = 0
        self._finished = 0
        self._last_line = time.monotonic()

    def opened(self, folder: Path, server: ServerInfo) -> None:
        """Say what is measured and where the results go."""
        version = f" {server.version}" if server.version else ""
        engine = f" ({server.owned_by}{version})" if server.owned_by else ""
        self.step(f"{server.model} at {server.url}{engine}; results go to {folder}")

    def sending(self, total: int, skipped: int) -> None:
        """Say how much there is to do."""
        self._total, self._finished = total, 0
        earlier = f", {skipped} are there already" if skipped else ""
        self.step(f"{total:,} {'request' if total == 1 else 'requests'} to send{earlier}")
        self._last_line = time.monotonic()

    def progress(self, line: str) -> None:
        """Write the engine's state when nothing was written for a while: a long prefill is not silence."""
        if time.monotonic() - self._last_line >= _QUIET_S:
            self.step(f"under way: {line}")
            self._last_line = time.monotonic()

    def finished(self, result: Result) -> None:
        """Write the request's line."""
        self._finished += 1
        self.step(f"[{self._finished}/{self._total}] {describe_result(result)}")
        self._last_line = time.monotonic()


class LiveWatcher(PlainWatcher):
    """Keeps a bar and the requests under way at the bottom of a terminal, finished ones above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._running: dict[Job, float] = {}
        self._ttft: dict[Job, float] = {}
        self._engine = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def waiting(self, seconds: float, line: str) -> None:
        """Show that a server is starting."""
        self._bar.update(
            self._task, description=f"starting, {format_seconds(seconds)}: {escape(printable(line)[:60])}"
        )

    def preparing(self, job: Job, number: int, total: int) -> None:
        """Show how many prompts are built."""
        self._bar.update(
            self._task,
            description=f"building prompts, {format_tokens(job.context)}",
            total=total,
            completed=number,
        )

    def sending(self, total: int, skipped: int) -> None:
        """Start the bar for the requests."""
        super().sending(total, skipped)
        self._bar.reset(self._task, description="requests", total=total)

    def started(self, job: Job) -> None:
        """Show the request as under way."""
        self._running[job] = time.monotonic()

    def first_token(self, job: Job, ttft_s: float) -> None:
        """Show the request's TTFT."""
        self._ttft[job] = ttft_s

    def progress(self, line: str) -> None:
        """Show the engine's state."""
        self._engine = printable(line)

    def given_up(self, job: Job) -> None:
        """Take the request from those under way."""
        super().given_up(job)
        self._running.pop(job, None)
        self._ttft.pop(job, None)

    def finished(self, result: Result) -> None:
        """Move the request from those under way to those above the bar."""
        super().finished(result)
        self._running.pop(result.job, None)
        self._ttft.pop(result.job, None)
        self._bar.advance(self._task)

    def _render(self) -> Group:
        now = time.monotonic()
        lines = []
        for job, began in list(self._running.items())[:_SHOWN_RUNNING]:
            ttft = self._ttft.get(job)
            state = "prefill" if ttft is None else f"TTFT {format_seconds(ttft)}, decoding"
            lines.append(Text(f"  {describe_job(job)}: {format_seconds(now - began)}, {state}", style="dim"))
        if len(self._running) > _SHOWN_RUNNING:
            lines.append(Text(f"  and {len(self._running) - _SHOWN_RUNNING} more", style="dim"))
        if self._engine and self._running:
            lines.append(Text(f"  engine: {self._engine}", style="dim"))
        return Group(*lines, self._bar)


def choose_watcher(console: Console) -> PlainWatcher:
    """Return the live display on a terminal, plain lines elsewhere. Use as a context manager."""
    return LiveWatcher(console) if console.is_terminal else PlainWatcher(console)


def describe_job(job: Job) -> str:
    """Name a request for a person."""
    phase = "" if job.phase is LoadPhase.MEASURED else f"{job.phase}: "
    return f"{phase}{format_tokens(job.context)} tokens, depth {job.depth:g}"


def describe_result(result: Result) -> str:
    """Describe a finished request in one line."""
    words = [describe_job(result.job)]
    if result.status is not Status.OK:
        words.append(f"{result.status}: {result.error}")
    if result.ttft_s is not None:
        words.append(f"TTFT {format_seconds(result.ttft_s)}")
    if result.prefill_tokens_per_s is not None:
        words.append(f"{result.prefill_tokens_per_s:,.0f} tokens/s")
    if result.recall is not None:
        words.append(f"recall {result.recall:.0%}")
    if result.labels:
        words.append(f"[{', '.join(result.labels)}]")
    return ", ".join(words)
