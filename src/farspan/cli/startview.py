"""A start on the screen: a live table on a terminal, one line a phase anywhere else; always on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from farspan.cli.lines import LineView
from farspan.engines.logs.findings import Finding, Severity
from farspan.escape_terminal import printable
from farspan.launch.compared_figures import ComparedFigure
from farspan.launch.serve import ServeWatcher
from farspan.launch.server_records import ServerRecord
from farspan.launch.start_watch import PhaseView, StartReport, StartupWatch
from farspan.sizes import format_seconds

_LESS = 0.97  # of the plan, below which a figure is pointed out


class PlainStart(LineView, ServeWatcher):
    """One line when a phase begins, one when it ends."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._said: set[tuple[str, bool]] = set()
        self._waited_for = ""

    def progress(self, seconds: float, watch: StartupWatch) -> None:  # noqa: ARG002
        """Show the phases."""
        self._say_waiting(watch)
        self._say_phases(watch.phases())

    def ready(self, report: StartReport, record: ServerRecord) -> None:
        """Say what the engine got, and where it answers."""
        self._say_phases(report.phases)
        for row in report.compared:
            self.step(f"  {describe_compared(row)}")
        if record.url or record.runtime == "kubernetes":
            where = f" at {record.url}" if record.url else ""
            self.step(f"{record.name} answers{where} after {format_seconds(report.ready_s)}")
        else:
            self.step(f"{record.name} runs; machine 0 answers")
        for finding in report.findings:
            if finding.severity is Severity.INFO:
                continue
            self.step(f"  ! {finding.cause}")

    def _say_waiting(self, watch: StartupWatch) -> None:
        if watch.waits_for not in ("", self._waited_for):
            self._waited_for = watch.waits_for
            self.step(f"  waiting: {self._waited_for}")

    def _say_phases(self, phases: tuple[PhaseView, ...]) -> None:
        for phase in phases:
            if phase.took_s is None or (phase.name, phase.done) in self._said:
                continue
            self._said.add((phase.name, phase.done))
            self.step(f"  {describe_phase(phase)}")


class LiveStart(PlainStart):
    """Keeps a table of all phases at the bottom of a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def progress(self, seconds: float, watch: StartupWatch) -> None:
        """Show the phases."""
        self._say_waiting(watch)
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for name in ("phase", "planned", "took", ""):
            table.add_column(name, justify="left" if name in ("phase", "") else "right", no_wrap=True)
        for phase in watch.phases():
            took = "" if phase.took_s is None else format_seconds(phase.took_s)
            style = "green" if phase.done else ("" if phase.took_s is None else "bold")
            table.add_row(
                Text(phase.name, style=style), format_seconds(phase.planned_s), took, _progress(phase)
            )
        table.caption = Text(f"{format_seconds(seconds)} since the start", style="dim")
        self._live.update(table)

    def ready(self, report: StartReport, record: ServerRecord) -> None:
        """Say what the engine got, and where it answers."""
        self._live.update(Text(""))
        super().ready(report, record)


def choose_start_view(console: Console) -> PlainStart:
    """The live table on a terminal, plain lines elsewhere. Use as a context manager."""
    return LiveStart(console) if console.is_terminal else PlainStart(console)


def describe_phase(phase: PhaseView) -> str:
    """A phase in one line."""
    planned = f"planned {format_seconds(phase.planned_s)}" if phase.planned_s else "not planned"
    if not phase.done:
        return f"{phase.name} begins ({planned})"
    rate = f", {phase.rate / 1e9:.2f} GB/s" if phase.rate else ""
    return f"{phase.name} took {format_seconds(phase.took_s or 0.0)} ({planned}{rate})"


def describe_compared(row: ComparedFigure) -> str:
    """A figure beside the plan's, in one line."""
    mark = " - LESS THAN PLANNED" if row.ratio < _LESS else ""
    return f"{row.what}: {_figure(row.got)}, planned {_figure(row.planned)}{mark}"


def describe_finding(finding: Finding) -> list[str]:
    """A finding: its cause, its evidence, its fix."""
    lines = [f"{finding.severity}: {finding.cause} [{finding.id}, {finding.confidence}]"]
    if finding.evidence.text:
        lines.append(f"  line {finding.evidence.line}: {finding.evidence.text.strip()[:300]}")
    lines += [f"  fix: {step}" for step in finding.fix]
    return [printable(line) for line in lines]


def _progress(phase: PhaseView) -> str:
    words = []
    if phase.percent is not None and not phase.done:
        words.append(f"{phase.percent:.0f}%")
    if phase.rate:
        words.append(f"{phase.rate / 1e9:.2f} GB/s")
    return " ".join(words)


def _figure(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.2f}"
