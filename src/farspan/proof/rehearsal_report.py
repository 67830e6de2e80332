"""A rehearsal in words: its tables for the terminal and the page, its report files, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from farspan.errors import InputError
from farspan.launch.observed_server import TOLERANCE, calibrate
from farspan.planner.calibration_store import save_calibration
from farspan.proof.rehearsal import Rehearsed
from farspan.proof.rehearsal_result import DeploymentTime, RehearsalResult, TimeRow, judge, observe
from farspan.reports.rehearsal_page import RehearsalList, RehearsalPage, RehearsalTable
from farspan.reports.write_report import Format, ReportFiles, write_page
from farspan.sizes import format_seconds, format_tokens


@dataclass(frozen=True, slots=True)
class RehearsalReport:
    """A rehearsal that is over, and its report.

    Args:
        result: What it has shown.
        page: The same in words.
        files: The report's files.
    """

    result: RehearsalResult
    page: RehearsalPage
    files: ReportFiles

    @property
    def exit_code(self) -> int:
        """0 when the engine started and answered every prompt, else 1."""
        return self.result.exit_code

    def to_json(self) -> dict[str, Any]:
        """What it has shown, and where the report is."""
        return {**self.result.to_json(), "report": self.files.to_json()}

    def lines(self) -> Iterator[str]:
        """The report for a terminal."""
        yield f"{self.page.claim} {self.page.note}"
        for table in self.page.tables:
            yield ""
            yield f"{table.heading}:"
            yield from _align((table.columns, *table.rows))
            if table.caption:
                yield table.caption
        for part in self.page.lists:
            yield ""
            yield f"{part.heading}:"
            yield from (f"  {item}" for item in part.items)


def report_rehearsal(
    done: Rehearsed, *, formats: Sequence[Format], keep_calibration: bool = False
) -> RehearsalReport:
    """Judge a rehearsal, keep what it taught if that is wanted, and write its report into its folder."""
    result = judge(done)
    if keep_calibration:
        result = _keep(result)
    page = describe(result)
    return RehearsalReport(result, page, write_page(page, done.options.folder, formats))


def _keep(result: RehearsalResult) -> RehearsalResult:
    """Keep what was fitted where plans on this machine find it."""
    done = result.rehearsed
    launch, options = done.launch, done.options
    if launch.plan is None or launch.request is None:
        return replace(result, calibrated="nothing is kept: nothing was planned")
    model = f"one rank of {options.shard.whole.name} at {options.shard.division.text}"
    try:
        found = calibrate(
            launch.request, launch.plan, observe(done), date=f"{datetime.now(UTC):%Y-%m-%d}", model=model
        )
        return replace(result, calibration=save_calibration(found), calibrated="; ".join(found.fitted))
    except InputError as error:
        return replace(result, calibrated=f"nothing is kept: {error}")


def describe(result: RehearsalResult) -> RehearsalPage:
    """Put a rehearsal into words."""
    done = result.rehearsed
    options, progress, launch = done.options, done.progress, done.launch
    name = f"{options.shard.whole.name}, {options.shard.division.text}"
    engine = f"{options.engine.title} {progress.version or launch.version}"
    where = f"one {result.gpu}" if result.gpu else "this machine's CPU"
    return RehearsalPage(
        title=f"{name}, {engine}",
        good=result.good,
        claim=_claim(result),
        note=f"One rank of {name} alone on {where}, {engine}, started for {format_tokens(options.context)} tokens.",
        tables=tuple(_tables(result)),
        lists=tuple(_lists(result)),
        command=progress.flags,
        parts=result.to_json(),
    )


def _claim(result: RehearsalResult) -> str:
    progress = result.rehearsed.progress
    if progress.failed:
        what = "did not start" if progress.ready_s is None else "was not measured to the end"
        return f"The rank {what}: {progress.failed}."
    failed = sum(row.sent - row.answered for row in result.times)
    if failed:
        return f"{failed} of {sum(row.sent for row in result.times)} prompts failed."
    off = [row.figure.what for row in result.memory if not row.figure.within]
    off += [
        f"first token of {format_tokens(row.context)}" for row in result.times if row.ttft_within is False
    ]
    off += [
        f"time between tokens at {format_tokens(row.context)}"
        for row in result.times
        if row.itl_within is False
    ]
    if off:
        count = "1 figure is off its plan" if len(off) == 1 else f"{len(off)} figures are off their plan"
        return f"The rank runs; {count}: {', '.join(off)}."
    if result.plan is None:
        return "The rank runs, and answers prompts of every length."
    return "The rank runs as planned."


def _tables(result: RehearsalResult) -> Iterator[RehearsalTable]:
    if result.memory:
        yield RehearsalTable(
            "memory",
            "Memory at the start",
            ("figure", "deployment's plan", "rank's plan", "engine", "off", "off, GiB", "basis", "within"),
            tuple(
                (
                    row.figure.what,
                    _figure(row.deployment),
                    _figure(row.figure.planned),
                    _figure(row.figure.got),
                    _percent(row.figure.difference_percent),
                    "-" if row.figure.difference_gib is None else f"{row.figure.difference_gib:+.2f}",
                    row.figure.basis or "-",
                    "yes" if row.figure.within else "NO",
                )
                for row in result.memory
            ),
            f"Off is the rank's plan less what the engine got. Tolerance: {TOLERANCE}.",
        )
    if any(row.sent for row in result.times):
        yield RehearsalTable(
            "times",
            "Prompts",
            (
                "prompt",
                "answered",
                "first token",
                "planned",
                "off",
                "between tokens",
                "planned",
                "off",
                "within",
            ),
            tuple(_time_cells(row) for row in result.times),
            "Medians of cold prompts of random token ids, one alone at a time.",
        )
    if result.longest is not None:
        yield _longest_table(result.longest, result.rehearsed.options.shard.division.tp)
    phases = result.rehearsed.phases
    if phases:
        yield RehearsalTable(
            "start",
            "Phases of the start",
            ("phase", "planned", "took"),
            tuple(
                (str(phase["name"]), _seconds(phase["planned_s"] or None), _seconds(phase["took_s"]))
                for phase in phases
            ),
        )


def _time_cells(row: TimeRow) -> tuple[str, ...]:
    verdicts = (row.ttft_within, row.itl_within)
    within = "NO" if False in verdicts else "yes" if True in verdicts else "-"
    return (
        format_tokens(row.context),
        f"{row.answered} of {row.sent}",
        _seconds(row.ttft_s),
        _seconds(row.planned_ttft_s),
        _percent(row.ttft_percent),
        _seconds(row.itl_s),
        _seconds(row.planned_itl_s),
        _percent(row.itl_percent),
        within,
    )


def _longest_table(longest: DeploymentTime, tp: int) -> RehearsalTable:
    rank, collectives = longest.rank, longest.collectives
    rows = [("the rank alone", _seconds(rank.seconds), f"{_seconds(rank.low_s)} to {_seconds(rank.high_s)}")]
    caption = f"The rank alone: {longest.fit}; {rank.basis}."
    if collectives is not None and tp > 1:
        rows.append(("collectives", _seconds(collectives.prefill_s), "-"))
        caption += f" Collectives: {collectives.formula}; {collectives.basis}."
    if longest.of_stage:
        caption += " The rank is of one pipeline stage: a prompt passes the others too."
    else:
        rows.append(
            (
                "the deployment",
                _seconds(longest.seconds),
                f"{_seconds(longest.low_s)} to {_seconds(longest.high_s)}",
            )
        )
    if longest.planned_s is not None:
        rows.append(("the deployment's plan", _seconds(longest.planned_s), "-"))
    return RehearsalTable(
        "longest",
        f"First token of {format_tokens(longest.prompt_tokens)}",
        ("what", "first token", "95 %"),
        tuple(rows),
        caption,
    )


def _lists(result: RehearsalResult) -> Iterator[RehearsalList]:
    progress = result.rehearsed.progress
    found = [f"{finding['severity']}: {finding['cause']}" for finding in progress.findings]
    found += [f"fix: {step}" for finding in progress.findings for step in finding["fix"]]
    if progress.failed and progress.fix:
        found.append(f"fix: {progress.fix}")
    failures = dict.fromkeys(
        f"{format_tokens(row.context)}: {reason}" for row in result.times for reason in row.failures
    )
    if failures:
        yield RehearsalList("failures", "Prompts that failed", tuple(failures))
    if found:
        yield RehearsalList("findings", "What the log says", tuple(dict.fromkeys(found)))
    options = result.rehearsed.options
    differences = list(options.shard.differences)
    if options.toy:
        differences.insert(0, f"a toy: {options.toy}; its figures say nothing of the deployment")
    if result.refusal:
        differences.append(f"the deployment itself is not planned: {result.refusal}")
    yield RehearsalList("differences", "What is not as in the deployment", tuple(differences))
    if result.calibrated:
        where = f" in {result.calibration}" if result.calibration else ""
        yield RehearsalList("calibration", "Kept for plans on this machine", (f"{result.calibrated}{where}",))


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f} %"


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_seconds(value)


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  " + "  ".join((first, *others)).rstrip()
