"""What the plan that belongs to a run expected: times, memory and flags, and where the plan has them from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from farspan.errors import InputError
from farspan.measurement.analysis.plan_beside_run import (
    TtftPlan,
    choose_engine,
    find_launch_plan,
    find_plan_document,
)
from farspan.measurement.analysis.plan_times import list_planned
from farspan.planner.document import PlanDocument, PlanPart
from farspan.planner.document_records import EngineRecord, LedgerRecord, RequestRecord


@dataclass(frozen=True, slots=True)
class Expectation:
    """The plan of one engine beside a run or by itself; None or empty where it does not say.

    Args:
        request: What was planned.
        times: Planned TTFT by context.
        answers: The engine's plans, the shortest context first; at least one.
        launched: The plan that the server itself was started by, at its longest context.
    """

    request: RequestRecord
    times: TtftPlan
    answers: tuple[EngineRecord, ...]
    launched: EngineRecord | None = None

    @property
    def engine(self) -> str:
        """Whose plan it is."""
        return self._longest.engine

    @property
    def version(self) -> str:
        """Of the engine; empty when the plan does not say."""
        return self._longest.version or ""

    @property
    def hardware(self) -> str:
        """Such as `8x H200`; empty when the number of GPUs was looked for."""
        return self.request.hardware if self.request.gpus else ""

    @property
    def basis(self) -> str:
        """Where the times come from, in the plan's words."""
        return self._longest.ttft_s.basis if self._longest.ttft_s else ""

    @property
    def trust(self) -> str:
        """`fitted` or `assumed`: how far its times can be trusted."""
        return "fitted" if self._longest.ttft_s and self._longest.ttft_s.fitted else "assumed"

    @property
    def itl_s(self) -> dict[int, float]:
        """Context to expected time between tokens, in seconds."""
        return {
            answer.context: answer.itl_s.expected
            for answer in self.answers
            if answer.context is not None and answer.itl_s and answer.itl_s.expected > 0
        }

    @property
    def kv_bytes(self) -> float | None:
        """Room for KV on one GPU, in bytes."""
        return self._longest.kv_room_bytes or None

    @property
    def gpu_bytes(self) -> float | None:
        """Memory of one GPU, in bytes."""
        return float(self.request.gpu_memory_bytes) if self.request.gpu_memory_bytes > 0 else None

    @property
    def ledger(self) -> tuple[LedgerRecord, ...]:
        """Every line of one GPU's memory; only a plan of a single context has them."""
        return tuple(
            line for line in (self.launched or self._longest).ledger if line.on_gpu and line.bytes > 0
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """The planned command line flags."""
        return (self.launched or self._longest).flags

    @property
    def _longest(self) -> EngineRecord:
        return self.answers[-1]


def find_expectation(folder: Path, engine: str | None, given: Path | None = None) -> Expectation | None:
    """Return what the plan of a run expects of its engine.

    Args:
        folder: The run folder: the plan of the last start that had one is taken.
        engine: The engine measured, as /v1/models names its owner.
        given: A file of `farspan plan --json` to take instead.

    Raises:
        InputError: The given file is no plan.
        UnsupportedError: A newer farspan wrote the plan.
    """
    if given is None:
        document = find_plan_document(folder)
    else:
        document = PlanDocument.load(given)
        if not list_planned(document):
            raise InputError(f"{given} holds no planned time", "write it with farspan plan ... --json")
    times = choose_engine(list_planned(document), engine) if document else None
    if document is None or times is None:
        return None
    (part,) = document.parts
    name = next(iter(times.times.values())).engine
    expectation = expect(part, name)
    launched = find_launch_plan(folder)
    if expectation is None or launched is None:
        return expectation
    answers = [answer for part in launched.parts for answer in part.answers_of(name) if not answer.refused]
    return replace(expectation, launched=answers[-1] if answers else None)


def expect(part: PlanPart, engine: str) -> Expectation | None:
    """Return what a plan expects of one engine; None when it plans no time for it."""
    times = TtftPlan({row.context: row for row in list_planned(part) if row.engine == engine})
    answers = tuple(
        answer for answer in part.answers_of(engine) if not answer.refused and answer.context is not None
    )
    return Expectation(part.request, times, answers) if times.times else None
