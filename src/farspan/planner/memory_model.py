"""An engine as the planner sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from farspan.planner.request import EnginePlan, PlanRequest

if TYPE_CHECKING:
    from farspan.planner.lever_candidate import LeverCandidate


class MemoryModel(Protocol):
    """What searches, sweeps and levers ask of an engine. `farspan.engines.engine.Engine` says what each part means."""

    @property
    def name(self) -> str:
        """In options and documents."""

    @property
    def data_parallel_flags(self) -> tuple[str, ...]:
        """Its spellings of the number of replicas; empty when it has none."""

    @property
    def pipeline_flags(self) -> tuple[str, ...]:
        """Its spellings of the number of pipeline stages; empty when none is planned."""

    def plan(self, request: PlanRequest) -> EnginePlan:
        """What it would do with a request.

        Raises:
            InputError: It refuses the request.
        """

    def outline(self, request: PlanRequest) -> EnginePlan:
        """The same without ledger and remarks.

        Raises:
            InputError: It refuses the request.
        """

    def check_replicas(self, request: PlanRequest) -> None:
        """Refuse replicas that are not servers independent of each other.

        Raises:
            UnsupportedError: They share work.
        """

    def grouped(self, request: PlanRequest, tp: int, groups: int) -> PlanRequest | None:
        """The request on one server of `groups` attention groups of `tp` GPUs that share the experts between them; None
        where the engine or the model has no such server."""

    def levers(self) -> Sequence[LeverCandidate]:
        """What can be changed when a request does not fit, in order of what it costs the user."""
