"""A plan held against what its server printed at start, figure by figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from farspan.engines.engine import Engine, FigureKind, StartFigure
from farspan.launch.compared_figures import printed_value
from farspan.planner.document_records import EngineRecord
from farspan.planner.ledger import Basis
from farspan.sizes import GIB


class Tolerance(NamedTuple):
    """What counts as right: a share of what the server got, or so many GiB of one GPU."""

    relative: float
    absolute_gib: float


VALIDATED = Tolerance(0.005, 0.3)
TOLERANCE = "0.5 %, or 0.3 GiB of one GPU where that is more; arguments 0.5 %"
_LEAST_SURE_FIRST = (Basis.ASSUMED, Basis.FITTED, Basis.MIRRORED)


@dataclass(frozen=True, slots=True)
class ValidatedFigure:
    """One figure, as planned and as the server printed it.

    Args:
        what: What it is, with its unit.
        kind: Memory, room for tokens or requests, or a setting.
        planned: The plan's.
        got: The server's.
        difference_percent: How far the plan is above the server, in percent of what it got; None where that is 0.
        difference_gib: The same in GiB of one GPU, for tokens and requests as a share of its KV memory; None for a
            setting.
        basis: How far the plan trusts it, by the least sure line of the ledger it rests on; empty where the plan has no
            ledger, as a sweep's, or it follows from the arguments.
        within: Whether it is within the tolerance.
    """

    what: str
    kind: FigureKind
    planned: float
    got: float
    difference_percent: float | None
    difference_gib: float | None
    basis: str
    within: bool


@dataclass(frozen=True, slots=True)
class Validation:
    """A plan beside its server.

    Args:
        source: Where the server's figures are from.
        engine: The engine.
        version: Its version as the log says; empty where it does not.
        planned_version: The version whose arithmetic the plan used.
        plan: What was planned, in words.
        figures: One entry a figure that both have.
        notes: What to know before believing them; one sentence each.
    """

    source: str
    engine: str
    version: str
    planned_version: str
    plan: str
    figures: tuple[ValidatedFigure, ...]
    notes: tuple[str, ...] = ()

    @property
    def within(self) -> bool:
        """Whether every figure is within the tolerance."""
        return all(figure.within for figure in self.figures)

    @property
    def exit_code(self) -> int:
        """What the verb ends with: 0 within the tolerance, 1 beyond it."""
        return 0 if self.within else 1

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        return {**asdict(self), "within": self.within, "tolerance": TOLERANCE}


def compare_start(
    engine: Engine, plan: EngineRecord, logged: Mapping[str, float], tolerance: Tolerance = VALIDATED
) -> tuple[ValidatedFigure, ...]:
    """Compare every figure that a log has and a plan predicts.

    Args:
        engine: The engine of both.
        plan: The plan.
        logged: By the log reader's names, what the server printed.
        tolerance: What counts as right.
    """
    room = plan.kv_room_bytes
    found = []
    for figure in engine.start_figures:
        got, planned = logged.get(figure.logged), planned_value(figure, plan)
        if got is not None and planned is not None:
            gib = None if room is None else room / GIB
            found.append(_validated(figure, planned, got, plan, gib, tolerance))
    return tuple(found)


def planned_value(figure: StartFigure, plan: EngineRecord) -> float | None:
    """The plan's value: as the engine would print it, else from the ledger or the request."""
    printed = printed_value(figure, plan.printed)
    if printed is not None or figure.printed:
        return printed
    if figure.kind is FigureKind.SETTING:
        return None if plan.context is None else float(plan.context)
    lines = [line.bytes for line in plan.ledger if line.on_gpu and line.name.startswith(figure.ledger)]
    return sum(lines) / GIB if lines else None


def _validated(
    figure: StartFigure,
    planned: float,
    got: float,
    plan: EngineRecord,
    room_gib: float | None,
    tolerance: Tolerance,
) -> ValidatedFigure:
    share = (planned - got) / got if got else None
    gib = None
    if figure.kind is FigureKind.MEMORY:
        gib = planned - got
    elif figure.kind is FigureKind.ROOM and room_gib and share is not None:
        gib = room_gib * share
    close = share is not None and abs(share) <= tolerance.relative
    return ValidatedFigure(
        what=figure.means,
        kind=figure.kind,
        planned=planned,
        got=got,
        difference_percent=None if share is None else 100 * share,
        difference_gib=gib,
        basis=_basis(figure.ledger, plan),
        within=planned == got or close or (gib is not None and abs(gib) <= tolerance.absolute_gib),
    )


def _basis(ledger: tuple[str, ...], plan: EngineRecord) -> str:
    bases = {line.basis for line in plan.ledger if ledger and line.name.startswith(ledger)}
    return next((basis.value for basis in _LEAST_SURE_FIRST if basis.value in bases), "")


def nearest_plan(plans: Iterable[EngineRecord], context: float | None) -> EngineRecord | None:
    """The plan of a document whose context is nearest to a server's; None where none was planned."""
    usable = [plan for plan in plans if not plan.refused and plan.printed]
    return min(usable, key=lambda plan: abs((plan.context or 0) - (context or 0)), default=None)
