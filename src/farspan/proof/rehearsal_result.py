"""What a rehearsal has shown: every figure of memory and time beside its plan, and what they say of the deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from farspan.diagnosis.examine import read_server_state
from farspan.diagnosis.sources import read_source
from farspan.engines.engine import FigureKind
from farspan.engines.logs.server_state import Hints
from farspan.errors import InputError
from farspan.launch.observed_server import MEMORY, TIME_RELATIVE, TOLERANCE, ObservedServer, ObservedTime
from farspan.launch.validation import ValidatedFigure, compare_start, planned_value
from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import load_run
from farspan.planner.build_document import build_engine
from farspan.planner.collectives import CollectiveEstimate, estimate_collectives
from farspan.planner.document_records import EngineRecord
from farspan.planner.ledger import Basis
from farspan.planner.plan import plan_engine
from farspan.planner.prefill_fit import Extrapolation, PrefillFit, PrefillPoint, fit_prefill
from farspan.planner.request import EnginePlan
from farspan.proof.keep_log import LOG_FILE
from farspan.proof.rehearsal import KEPT_BY_ENGINES, Rehearsed, start_log
from farspan.sizes import GIB


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """A figure of the start.

    Args:
        figure: The plan of the rank alone beside what the engine got.
        deployment: What is planned for a rank of the deployment; None where nothing is.
    """

    figure: ValidatedFigure
    deployment: float | None


@dataclass(frozen=True, slots=True)
class TimeRow:
    """Prompts of one length.

    Args:
        context: Their tokens.
        sent, answered: How many.
        failures: Why the others failed, each once.
        ttft_s, itl_s: Medians of those that can be trusted; None without one.
        planned_ttft_s, planned_itl_s: As planned for the rank alone; None where nothing is.
        ttft_within, itl_within: Whether they are within the tolerance; None where there is nothing to compare.
    """

    context: int
    sent: int
    answered: int
    failures: tuple[str, ...]
    ttft_s: float | None
    itl_s: float | None
    planned_ttft_s: float | None
    planned_itl_s: float | None
    ttft_within: bool | None
    itl_within: bool | None

    @property
    def ttft_percent(self) -> float | None:
        """How far the planned first token is above the measured one, in percent of that."""
        return _percent(self.planned_ttft_s, self.ttft_s)

    @property
    def itl_percent(self) -> float | None:
        """The same of the time between tokens."""
        return _percent(self.planned_itl_s, self.itl_s)


@dataclass(frozen=True, slots=True)
class DeploymentTime:
    """The first token of the deployment's longest prompt, by what the rank alone has shown.

    Args:
        prompt_tokens: Tokens of the prompt.
        fit: What the measured prompts say, in words.
        rank: The rank alone.
        collectives: What the ranks' exchanges add.
        planned_s: What is planned for the deployment; None where nothing is.
        of_stage: Whether the rank is of one pipeline stage, whose time is not the deployment's.
    """

    prompt_tokens: int
    fit: str
    rank: Extrapolation
    collectives: CollectiveEstimate | None
    planned_s: float | None
    of_stage: bool = False

    @property
    def added_s(self) -> float:
        """What the exchanges add to the first token."""
        return self.collectives.prefill_s if self.collectives else 0.0

    @property
    def seconds(self) -> float:
        """The first token of the deployment."""
        return self.rank.seconds + self.added_s

    @property
    def low_s(self) -> float:
        """Its interval's lower end."""
        return self.rank.low_s + self.added_s

    @property
    def high_s(self) -> float:
        """Its interval's upper end."""
        return self.rank.high_s + self.added_s


@dataclass(frozen=True, slots=True)
class RehearsalResult:
    """What a rehearsal has shown.

    Args:
        rehearsed: What was done.
        gpu: The GPU it ran on; empty for none.
        plan: The plan of the rank alone; None where nothing is planned.
        deployment: The plan of the deployment; None where there is none.
        refusal: Why the deployment is not planned; empty where it is.
        memory: Every figure of the start.
        times: A row a prompt length.
        fit: The prefill fit; None where too little was measured.
        longest: What it says of the deployment's longest prompt; None without a fit.
        calibration: The file that what was fitted is kept in; None where it is not kept.
        calibrated: What was kept of it, or why nothing was, in words.
    """

    rehearsed: Rehearsed
    gpu: str
    plan: EngineRecord | None
    deployment: EngineRecord | None
    refusal: str
    memory: tuple[MemoryRow, ...]
    times: tuple[TimeRow, ...]
    fit: PrefillFit | None = None
    longest: DeploymentTime | None = None
    calibration: Path | None = None
    calibrated: str = ""

    @property
    def good(self) -> bool:
        """Whether the engine started and answered every prompt."""
        return self.rehearsed.progress.good

    @property
    def within(self) -> bool:
        """Whether every figure is within the tolerance of its plan."""
        times = (verdict for row in self.times for verdict in (row.ttft_within, row.itl_within))
        return all(row.figure.within for row in self.memory) and False not in times

    @property
    def exit_code(self) -> int:
        """0 when the engine started and answered, else 1. A plan that is off is a finding, not a failure."""
        return 0 if self.good else 1

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        done = self.rehearsed
        options, progress = done.options, done.progress
        return {
            "folder": str(options.folder),
            "model": options.model,
            "division": options.shard.division.text,
            "engine": progress.engine or options.engine.name,
            "version": progress.version or done.launch.version,
            "gpu": self.gpu,
            "toy": options.toy,
            "context": options.context,
            "good": self.good,
            "within": self.within,
            "failed": progress.failed,
            "fix": progress.fix,
            "findings": progress.findings,
            "flags": progress.flags,
            "differences": list(options.shard.differences),
            "start": {"ready_s": progress.ready_s, "planned_s": progress.planned_start_s, "phases": list(done.phases)},
            "memory": [{**asdict(row.figure), "deployment": row.deployment} for row in self.memory],
            "times": [
                {**asdict(row), "ttft_percent": row.ttft_percent, "itl_percent": row.itl_percent} for row in self.times
            ],
            "longest": None if self.longest is None else _longest_json(self.longest),
            "plan": None if self.plan is None else self.plan.to_json(),
            "deployment": None if self.deployment is None else self.deployment.to_json(),
            "deployment_refused": self.refusal,
            "calibration": None if self.calibration is None else str(self.calibration),
            "calibrated": self.calibrated,
            "tolerance": TOLERANCE,
        }  # fmt: skip


def _longest_json(longest: DeploymentTime) -> dict[str, Any]:
    return {
        **asdict(longest),
        "collectives": longest.collectives._asdict() if longest.collectives is not None else None,
        "seconds": longest.seconds,
        "low_s": longest.low_s,
        "high_s": longest.high_s,
    }


def judge(done: Rehearsed) -> RehearsalResult:
    """Read what a rehearsal has left on disk and hold it against the plans."""
    launch, options = done.launch, done.options
    plan = None if launch.plan is None else build_engine(launch.context, launch.plan)
    whole, refusal = _plan_deployment(done)
    deployment = None if whole is None else build_engine(launch.context, whole)
    results = _read_results(options.run)
    times = tuple(_time_row(done, context, results) for context in options.contexts)
    fit = _fit(results)
    return RehearsalResult(
        rehearsed=done,
        gpu=launch.gpu,
        plan=plan,
        deployment=deployment,
        refusal=refusal,
        memory=_memory_rows(done, plan, deployment),
        times=times,
        fit=fit,
        longest=None if fit is None else _longest(done, fit, whole),
    )


def observe(done: Rehearsed) -> ObservedServer:
    """Read what a rehearsal has left on disk of what its server was seen to do."""
    results = [result for result in _read_results(done.options.run) if result.is_trusted]
    return ObservedServer(
        _read_figures(done),
        tuple(
            ObservedTime(
                result.context,
                result.output_tokens or done.options.output_tokens,
                result.ttft_s,
                None if result.itl_s is None else result.itl_s.p50,
            )
            for result in results
            if result.ttft_s is not None
        ),
    )


def _plan_deployment(done: Rehearsed) -> tuple[EnginePlan | None, str]:
    request = done.options.deployment
    if request is None:
        return None, ""
    try:
        return plan_engine(replace(request, engine_version=done.launch.version), done.options.engine), ""
    except InputError as error:
        return None, str(error)


def _memory_rows(
    done: Rehearsed, plan: EngineRecord | None, deployment: EngineRecord | None
) -> tuple[MemoryRow, ...]:
    figures = _read_figures(done)
    engine = done.options.engine
    if plan is None:
        return _weights_alone(done, figures)
    by_name = {figure.means: figure for figure in engine.start_figures}
    return tuple(
        MemoryRow(row, None if deployment is None else planned_value(by_name[row.what], deployment))
        for row in compare_start(engine, plan, figures, MEMORY)
    )


def _weights_alone(done: Rehearsed, figures: Mapping[str, float]) -> tuple[MemoryRow, ...]:
    """The one figure that is known without a plan."""
    got, planned = figures.get("weights_gib"), done.options.shard.weight_bytes / GIB
    if got is None:
        return ()
    figure = ValidatedFigure(
        what="weights, GiB",
        kind=FigureKind.MEMORY,
        planned=planned,
        got=got,
        difference_percent=_percent(planned, got),
        difference_gib=planned - got,
        basis=Basis.MIRRORED.value,
        within=abs(planned - got) <= max(MEMORY.relative * got, MEMORY.absolute_gib),
    )
    return (MemoryRow(figure, None),)


def _read_figures(done: Rehearsed) -> Mapping[str, float]:
    """What the engine printed at its start, that of a start that failed included."""
    options, launch = done.options, done.launch
    for log in (options.run / LOG_FILE, start_log(options)):
        if log.is_file():
            hints = Hints(options.shard.whole.name, launch.gpu, launch.version)
            return read_server_state(read_source(str(log)), hints).figures
    return {}


def _read_results(run: Path) -> tuple[Result, ...]:
    try:
        found = load_run(run).results
    except InputError:
        return ()
    return tuple(result for result in found if result.phase is LoadPhase.MEASURED)


def _time_row(done: Rehearsed, context: int, results: Sequence[Result]) -> TimeRow:
    mine = [result for result in results if result.context == context]
    trusted = [result for result in mine if result.is_trusted]
    ttft = [result.ttft_s for result in trusted if result.ttft_s is not None]
    itl = [result.itl_s.p50 for result in trusted if result.itl_s is not None]
    planned_ttft, planned_itl = _planned_times(done, context)
    first, between = (median(values) if values else None for values in (ttft, itl))
    return TimeRow(
        context=context,
        sent=len(mine),
        answered=sum(result.status.answered for result in mine),
        failures=tuple(
            dict.fromkeys(
                result.error or result.status.value for result in mine if not result.status.answered
            )
        ),
        ttft_s=first,
        itl_s=between,
        planned_ttft_s=planned_ttft,
        planned_itl_s=planned_itl,
        ttft_within=_is_near(planned_ttft, first),
        itl_within=_is_near(planned_itl, between),
    )


def _is_near(planned: float | None, got: float | None) -> bool | None:
    percent = _percent(planned, got)
    return None if percent is None else abs(percent) <= 100 * TIME_RELATIVE


def _percent(planned: float | None, got: float | None) -> float | None:
    return None if planned is None or not got else 100 * (planned - got) / got


def _planned_times(done: Rehearsed, context: int) -> tuple[float | None, float | None]:
    """Planned first token and time between tokens of the rank alone, for prompts of so many tokens."""
    request = done.launch.request
    if request is None:
        return None, None
    try:
        plan = done.options.engine.outline(request.at(context + done.options.output_tokens))
    except InputError:
        return None, None
    return (plan.time.ttft_expected_s, plan.time.itl_expected_s) if plan.time else (None, None)


def _fit(results: Sequence[Result]) -> PrefillFit | None:
    points = [
        PrefillPoint(result.context, result.ttft_s)
        for result in results
        if result.is_trusted and result.ttft_s is not None
    ]
    try:
        return fit_prefill(points)
    except InputError:
        return None


def _longest(done: Rehearsed, fit: PrefillFit, whole: EnginePlan | None) -> DeploymentTime:
    options = done.options
    tokens, measured = options.context - options.output_tokens, max(options.contexts)
    if tokens - measured <= KEPT_BY_ENGINES:
        tokens = measured
    request, collectives = options.deployment, None
    of_stage = options.shard.division.layers is not None
    if request is not None and not of_stage:
        collectives = estimate_collectives(request.model, request.gpu, request.tp, tokens)
    planned = whole.time.ttft_expected_s if whole is not None and whole.time is not None else None
    return DeploymentTime(tokens, fit.describe(), fit.extrapolate(tokens), collectives, planned, of_stage)
