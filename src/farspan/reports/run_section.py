"""What a report says of one run, and of a run beside the first one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from farspan.measurement.analysis.comparison import Comparison, Row
from farspan.measurement.analysis.load_curve import CurvePoint
from farspan.measurement.analysis.summary import SharedPoint, list_shared
from farspan.measurement.runs.result import Result
from farspan.measurement.turns import TurnPoint, list_turns
from farspan.reports.claim import (
    KeyFigure,
    choose_figures,
    write_claim,
    write_comparison,
    write_verdict,
)
from farspan.reports.load_chart import LOAD_COLUMNS, list_load, write_load
from farspan.reports.report_run import ReportRun
from farspan.reports.report_tables import (
    FailureRow,
    RecallTable,
    choose_requests,
    explain_failures,
    tabulate_recall,
    write_measure,
    write_ratio,
)
from farspan.reports.trust_statement import Trust, is_right, judge
from farspan.sizes import format_seconds

_MEASURES = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2e": "end to end",
    "prefill_rate": "prefill rate",
    "decode_rate": "decode rate",
    "queue": "queue",
}


@dataclass(frozen=True, slots=True)
class RunSection:
    """What a report says of one run.

    Args:
        claim: The answer in one sentence; `verdict` is the count of right answers.
        good: Whether every answer was checked and right.
        facts: What ran, where, with which flags, when.
        shared: Cold and warm beside each other, where prompts share prefixes.
        turns: Cold and warm of every turn of conversations.
        load: Throughput and latency at every concurrency, of a run that goes through several.
        requests: Those the page lists; `total` of them exist.
    """

    run: ReportRun
    claim: str
    verdict: str
    good: bool
    figures: tuple[KeyFigure, ...]
    facts: tuple[tuple[str, str], ...]
    trust: tuple[Trust, ...]
    failures: tuple[FailureRow, ...]
    recall: RecallTable | None
    shared: tuple[SharedPoint, ...]
    turns: tuple[TurnPoint, ...]
    load: tuple[CurvePoint, ...]
    requests: tuple[Result, ...]
    total: int
    environment: tuple[tuple[str, str], ...]

    shared_columns: ClassVar[tuple[str, ...]] = (
        "asked", "depth", "shared", "cached", "TTFT cold", "of", "TTFT warm", "of", "warm / cold", "missed",
    )  # fmt: skip

    @property
    def shared_rows(self) -> tuple[tuple[str, ...], ...]:
        """The cells of the table under `shared_columns`."""
        return tuple(_write_shared(point) for point in self.shared)

    turn_columns: ClassVar[tuple[str, ...]] = (
        "begins with", "depth", "turn", "prompt", "cacheable", "cached", "TTFT cold", "of", "TTFT warm", "of",
        "warm / cold", "missed",
    )  # fmt: skip

    @property
    def turn_rows(self) -> tuple[tuple[str, ...], ...]:
        """The cells of the table under `turn_columns`."""
        return tuple(_write_turn(point) for point in self.turns)

    load_columns: ClassVar[tuple[str, ...]] = LOAD_COLUMNS

    @property
    def load_rows(self) -> tuple[tuple[str, ...], ...]:
        """The cells of the table under `load_columns`."""
        return tuple(write_load(point) for point in self.load)

    @property
    def key(self) -> str:
        """The run's name in drawings and anchors."""
        return self.run.key

    @property
    def name(self) -> str:
        """What tells the run from the others."""
        return self.run.name


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run compared with the first one, and the answer in words."""

    first: ReportRun
    second: ReportRun
    claim: str
    comparison: Comparison
    rows: tuple[tuple[str, ...], ...]


def build_section(run: ReportRun, groups: Mapping[int, tuple[int, str]]) -> RunSection:
    """Work out what a report says of one run.

    Args:
        run: The run.
        groups: The contexts of all runs and what each is shown as: see `group_contexts`.
    """
    results = run.results
    return RunSection(
        run=run,
        claim=write_claim(run),
        verdict=write_verdict(results),
        good=bool(results) and all(map(is_right, results)),
        figures=choose_figures(run),
        facts=_list_facts(run),
        trust=judge(run),
        failures=explain_failures(run, results),
        recall=tabulate_recall(run, groups),
        shared=list_shared(results),
        turns=list_turns(results),
        load=list_load(run),
        requests=choose_requests(results),
        total=len(results),
        environment=_list_environment(run),
    )


def build_comparison(first: ReportRun, second: ReportRun, comparison: Comparison) -> ComparedRun:
    """Put a comparison with the first run into words."""
    return ComparedRun(
        first,
        second,
        write_comparison(first, second, comparison),
        comparison,
        tuple(_write_row(row) for row in comparison.rows if row.ratio is not None),
    )


def _write_shared(point: SharedPoint) -> tuple[str, ...]:
    return (
        f"{point.context:,}",
        f"{point.depth:g}",
        f"{point.shared_tokens:,}",
        *_write_cold_and_warm(point),
    )


def _write_turn(point: TurnPoint) -> tuple[str, ...]:
    return (
        f"{point.conversation:,}",
        f"{point.depth:g}",
        f"{point.turn:,}",
        f"{point.context:,}",
        f"{point.cacheable_tokens:,} ({point.cacheable_share:.1%})",
        *_write_cold_and_warm(point),
    )


def _write_cold_and_warm(point: SharedPoint | TurnPoint) -> tuple[str, ...]:
    return (
        "not reported" if point.cached_tokens is None else f"{point.cached_tokens:,}",
        "" if point.cold_ttft_s is None else format_seconds(point.cold_ttft_s),
        f"{point.cold:,}",
        "" if point.warm_ttft_s is None else format_seconds(point.warm_ttft_s),
        f"{point.warm:,}",
        "" if point.ratio is None else f"{point.ratio:.3g}",
        f"{point.missed:,}",
    )


def _write_row(row: Row) -> tuple[str, ...]:
    ratio = row.ratio
    count = "" if ratio is None else f"{ratio.count:,}{' pairs' if ratio.paired else ''}"
    return (
        f"{row.context:,}" + (" warm" if row.warm else ""),
        f"{row.depth:g}",
        _MEASURES.get(row.measure, row.measure),
        write_measure(row.measure, row.a),
        write_measure(row.measure, row.b),
        write_ratio(row),
        count,
        row.verdict.value,
    )


def _list_facts(run: ReportRun) -> tuple[tuple[str, str], ...]:
    plan = run.plan
    hardware = run.hardware()
    if not hardware:
        hardware = f"not known; planned for {plan.hardware}" if plan and plan.hardware else "not known"
    flags = run.flags()
    if not flags:
        flags = "not told by the server" + ("" if run.log else ", and no log given")
        if plan is not None and plan.flags:
            flags += f"; planned: {' '.join(plan.flags)}"
    times = [result.started_at for result in run.results if result.started_at]
    first = min(times, default="")
    date = "not recorded by the tool that measured" if run.tool else run.recorded.info.starts[0].time
    number = f"{len(run.results):,} measured"
    if run.unmeasured:
        number += f", {run.unmeasured:,} to warm up or cool down"
    return (
        ("Model", run.recorded.info.identity.model),
        ("Engine", run.engine or "not told by the server"),
        ("Hardware", hardware),
        ("Flags", flags),
        ("Date", _write_date(first or date)),
        ("Requests", number),
    )


def _write_date(text: str) -> str:
    """Write an ISO time to the minute; leave other text as it is."""
    date, mark, clock = text.partition("T")
    return f"{date} {clock[:5]} UTC" if mark and text.endswith("+00:00") else text


def _list_environment(run: ReportRun) -> tuple[tuple[str, str], ...]:
    info = run.recorded.info
    identity, latest = info.identity, info.starts[-1]
    server = latest.server
    limit = "not reported" if server.max_model_len is None else f"{server.max_model_len:,} tokens"
    rows = [
        ("Run", run.recorded.folder.resolve().name),
        ("Started", ", ".join(start.time for start in info.starts)),
        ("Server", server.url),
        ("Model loaded from", server.root or "not reported"),
        ("Longest context", limit),
        ("API", f"{identity.api}, prompts as {identity.prompt_as}"),
        ("Task", identity.task),
        *((("Text", str(latest.arguments["corpus"])),) if latest.arguments.get("corpus") else ()),
        ("Seed", str(identity.seed)),
        ("Requests at a time", str(latest.arguments.get("concurrency", "unknown"))),
    ]
    if run.tool:
        rows.append(("Imported from", f"{run.tool}, {latest.arguments.get('file', '')}"))
    log = run.log
    if log is not None and not log.recognised:
        rows.append(("Server's log", f"{run.log_name}: {log.lines:,} lines, none of them of vLLM or SGLang"))
    machine = run.environment.get("client")
    if isinstance(machine, dict) and machine.get("processor"):
        rows.append(("Client's processor", str(machine["processor"])))
    return (*rows, *((f"Client's {name}", value) for name, value in latest.environment.items()))
