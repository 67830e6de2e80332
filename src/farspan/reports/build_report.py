"""Everything a report shows, worked out of the run folders: no drawing of a page, no file written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farspan.errors import InputError
from farspan.measurement.analysis.comparison import Comparison, Row
from farspan.measurement.analysis.measure import Result
from farspan.reports.claim import (
    KeyFigure,
    align_figures,
    choose_figures,
    write_claim,
    write_comparison,
    write_verdict,
)
from farspan.reports.curves import CURVES, draw_curve
from farspan.reports.drawing import Chart
from farspan.reports.memory_chart import draw_ledger
from farspan.reports.report_run import ReportRun
from farspan.reports.report_tables import (
    FailureRow,
    PointRow,
    RecallTable,
    choose_requests,
    compare_with_first,
    explain_failures,
    group_contexts,
    list_rows,
    tabulate_recall,
    write_measure,
    write_ratio,
)
from farspan.reports.start_chart import draw_startup
from farspan.reports.timelines import draw_kv, draw_requests
from farspan.reports.trust_statement import Trust, is_right, judge

_MEASURES = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2e": "end to end",
    "prefill_rate": "prefill rate",
    "decode_rate": "decode rate",
    "queue": "queue",
}


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a report says of one run.

    Args:
        claim: The answer in one sentence; `verdict` is the count of right answers.
        good: Whether every answer was checked and right.
        facts: What ran, where, with which flags, when.
        requests: Those the page lists; `total` of them exist.
    """

    subject: ReportRun
    claim: str
    verdict: str
    good: bool
    figures: tuple[KeyFigure, ...]
    facts: tuple[tuple[str, str], ...]
    trust: tuple[Trust, ...]
    failures: tuple[FailureRow, ...]
    recall: RecallTable | None
    requests: tuple[Result, ...]
    total: int
    environment: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """The run's name in drawings and anchors."""
        return self.subject.key

    @property
    def name(self) -> str:
        """What tells the run from the others."""
        return self.subject.name


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run compared with the first one, and the answer in words."""

    first: ReportRun
    second: ReportRun
    claim: str
    comparison: Comparison
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that a report shows.

    Args:
        title: Its heading.
        good: Whether every answer of every run was checked and right.
        compares: Whether the comparison is what it was asked for.
        figures: Names of key figures, and the figure of every run, None where it has none.
    """

    title: str
    good: bool
    compares: bool
    runs: tuple[RunReport, ...]
    figures: tuple[tuple[str, tuple[KeyFigure | None, ...]], ...]
    beside: tuple[ComparedRun, ...]
    rows: tuple[PointRow, ...]

    @property
    def subjects(self) -> tuple[ReportRun, ...]:
        """The runs."""
        return tuple(run.subject for run in self.runs)

    @property
    def has_ratios(self) -> bool:
        """Whether any point has a ratio to the first run."""
        return any(row.ratio for row in self.rows)

    @property
    def has_plan(self) -> bool:
        """Whether any point has a planned time."""
        return any(row.expected_s is not None for row in self.rows)

    @property
    def has_kv(self) -> bool:
        """Whether any point has the KV held meanwhile."""
        return any(row.kv for row in self.rows)


def build_report(subjects: Sequence[ReportRun], *, title: str = "", compare: bool = False) -> ReportData:
    """Work out a report; runs without any success, or any request, have one too.

    Args:
        subjects: One run or several.
        title: The heading; by default the model's name.
        compare: Put the comparison first; needs two runs.

    Raises:
        InputError: A comparison is asked for, and there are not two runs or they have nothing in common.
    """
    if compare and len(subjects) != 2:
        raise InputError(
            f"--compare takes two runs, not {len(subjects)}", "name two run folders: --compare A B"
        )
    compared = compare_with_first(subjects)
    if compare and not compared:
        raise InputError(
            "the two runs have no context and depth in common",
            "compare runs of the same --contexts and --depths",
        )
    groups = group_contexts(subjects)
    runs = tuple(_report_one(subject, groups) for subject in subjects)
    models = dict.fromkeys(subject.model for subject in subjects)
    return ReportData(
        title=title or ", ".join(models),
        good=all(run.good for run in runs),
        compares=compare,
        runs=runs,
        figures=align_figures([run.figures for run in runs]),
        beside=tuple(_put_beside(subjects[0], s, compared[s.key]) for s in subjects if s.key in compared),
        rows=list_rows(subjects, compared),
    )


def draw_charts(data: ReportData) -> list[Chart]:
    """Draw every chart there is data for.

    Raises:
        InputError: The package that draws is not installed.
    """
    subjects = data.subjects
    drawn = [
        *(draw_curve(curve, subjects) for curve in CURVES),
        *(draw_kv(subject) for subject in subjects),
        draw_ledger(subjects),
        *(draw_requests(subject) for subject in subjects),
        *(draw_startup(subject) for subject in subjects),
    ]
    return [chart for chart in drawn if chart is not None]


def _report_one(subject: ReportRun, groups: Mapping[int, tuple[int, str]]) -> RunReport:
    results = subject.results
    return RunReport(
        subject=subject,
        claim=write_claim(subject),
        verdict=write_verdict(results),
        good=bool(results) and all(map(is_right, results)),
        figures=choose_figures(subject),
        facts=_list_facts(subject),
        trust=judge(subject),
        failures=explain_failures(subject, results),
        recall=tabulate_recall(subject, groups),
        requests=choose_requests(results),
        total=len(results),
        environment=_list_environment(subject),
    )


def _put_beside(first: ReportRun, second: ReportRun, comparison: Comparison) -> ComparedRun:
    return ComparedRun(
        first,
        second,
        write_comparison(first, second, comparison),
        comparison,
        tuple(_write_row(row) for row in comparison.rows if row.ratio is not None),
    )


def _write_row(row: Row) -> tuple[str, ...]:
    ratio = row.ratio
    count = "" if ratio is None else f"{ratio.count:,}{' pairs' if ratio.paired else ''}"
    return (
        f"{row.context:,}",
        f"{row.depth:g}",
        _MEASURES.get(row.measure, row.measure),
        write_measure(row.measure, row.a),
        write_measure(row.measure, row.b),
        write_ratio(row),
        count,
        row.verdict.value,
    )


def _list_facts(subject: ReportRun) -> tuple[tuple[str, str], ...]:
    plan = subject.plan
    hardware = subject.hardware()
    if not hardware:
        hardware = f"not known; planned for {plan.hardware}" if plan and plan.hardware else "not known"
    flags = subject.flags()
    if not flags:
        flags = "not told by the server" + ("" if subject.log else ", and no log given")
        if plan is not None and plan.flags:
            flags += f"; planned: {' '.join(plan.flags)}"
    times = [result.started_at for result in subject.results if result.started_at]
    first = min(times, default="")
    date = "not recorded by the tool that measured" if subject.tool else subject.run.info.starts[0].time
    number = f"{len(subject.results):,} measured"
    if subject.aside:
        number += f", {subject.aside:,} to warm up or cool down"
    return (
        ("Model", subject.run.info.identity.model),
        ("Engine", subject.engine or "not told by the server"),
        ("Hardware", hardware),
        ("Flags", flags),
        ("Date", _write_date(first or date)),
        ("Requests", number),
    )


def _write_date(text: str) -> str:
    """Write an ISO time to the minute; leave other text as it is."""
    date, mark, clock = text.partition("T")
    return f"{date} {clock[:5]} UTC" if mark and text.endswith("+00:00") else text


def _list_environment(subject: ReportRun) -> tuple[tuple[str, str], ...]:
    run = subject.run
    identity, latest = run.info.identity, run.info.starts[-1]
    server = latest.server
    limit = "not reported" if server.max_model_len is None else f"{server.max_model_len:,} tokens"
    rows = [
        ("Run", run.folder.resolve().name),
        ("Started", ", ".join(start.time for start in run.info.starts)),
        ("Server", server.url),
        ("Model loaded from", server.root or "not reported"),
        ("Longest context", limit),
        ("API", f"{identity.api}, prompts as {identity.prompt_as}"),
        ("Task", identity.task),
        ("Seed", str(identity.seed)),
        ("Requests at a time", str(latest.arguments.get("concurrency", "unknown"))),
    ]
    if subject.tool:
        rows.append(("Imported from", f"{subject.tool}, {latest.arguments.get('file', '')}"))
    log = subject.log
    if log is not None and not log.recognised:
        rows.append(
            ("Server's log", f"{subject.log_name}: {log.lines:,} lines, none of them of vLLM or SGLang")
        )
    machine = subject.environment.get("client")
    if isinstance(machine, dict) and machine.get("processor"):
        rows.append(("Client's processor", str(machine["processor"])))
    return (*rows, *((f"Client's {name}", value) for name, value in latest.environment.items()))
