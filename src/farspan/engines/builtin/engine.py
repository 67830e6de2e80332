"""The built-in engine, `farspan.builtin`: for demonstrations, tests and rehearsals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from farspan import __version__
from farspan.engines.builtin.start_phases import START_SECONDS
from farspan.engines.engine import Engine, StartFigure
from farspan.errors import InputError

if TYPE_CHECKING:
    from farspan.engines.command import EngineCommand, Listen, Nodes
    from farspan.engines.logs.line_pattern import LinePattern
    from farspan.engines.metric_source import Measure, MetricSource
    from farspan.planner.lever_candidate import LeverCandidate
    from farspan.planner.request import EnginePlan, PlanRequest


class Builtin(Engine):
    """The built-in engine. It comes with farspan and has farspan's version."""

    def known_versions(self) -> tuple[str, ...]:
        return (__version__,)

    def plan_server(self, request: PlanRequest) -> EnginePlan:
        self._check_ranks(request)
        from farspan.engines.builtin.plan import plan_builtin

        return self._warn_of_version(request, plan_builtin(request))

    def outline_server(self, request: PlanRequest) -> EnginePlan:
        self._check_ranks(request)
        from farspan.engines.builtin.plan import outline_builtin

        return self._warn_of_version(request, outline_builtin(request))

    def _check_ranks(self, request: PlanRequest) -> None:
        """Refuse several ranks, before anything is imported to plan with.

        Raises:
            InputError: There are several.
        """
        if request.tp != 1:
            raise InputError("the built-in engine runs on one GPU", "plan it with --tp 1")

    def _warn_of_version(self, request: PlanRequest, plan: EnginePlan) -> EnginePlan:
        """The plan, with a warning where it is of another version than the one asked for.

        Raises:
            InputError: The version is another one, and the nearest is not accepted.
        """
        if request.engine_version in ("", __version__):
            return plan
        from farspan.planner.versions import resolve_version

        chosen = resolve_version(
            self.name,
            request.engine_version,
            self.known_versions(),
            accept_nearest=request.accept_nearest_version,
        )
        return replace(plan, warnings=(chosen.warning, *plan.warnings)) if chosen.warning else plan

    def elastic_words(self) -> tuple[str, ...]:
        return ()

    def levers(self) -> tuple[LeverCandidate, ...]:
        from farspan.engines.builtin.levers import LEVERS

        return LEVERS

    def build_command(
        self,
        model: str,
        flags: Sequence[str],
        env: Mapping[str, str],
        listen: Listen,
        nodes: Nodes,
        python: str,
    ) -> EngineCommand:
        from farspan.engines.builtin.command import builtin_command

        return builtin_command(model, flags, env, listen, nodes, python, self.key_variable)

    def log_patterns(self) -> tuple[LinePattern, ...]:
        from farspan.engines.builtin.log_grammar import LINES

        return LINES

    def flag_names(self) -> frozenset[str]:
        from farspan.engines.builtin.flags import FLAGS

        return FLAGS

    def metric_sources(self) -> Mapping[Measure, tuple[MetricSource, ...]]:
        from farspan.engines.builtin.metrics import METRIC_SOURCES

        return METRIC_SOURCES


ENGINE = Builtin(
    name="builtin",
    title="built-in engine",
    owned_by="farspan",
    modules=("torch", "fastapi", "uvicorn"),
    key_variable="FARSPAN_API_KEY",
    context_flag="--max-model-len",
    step_tokens_flag="--max-num-batched-tokens",
    dummy_weight_flags=("--load-format", "dummy"),
    cpu_flags=("--device", "cpu"),
    most_ranks=1,
    start_seconds=START_SECONDS,
    start_figures=(StartFigure("weights_gib", "weights, GiB a GPU", "", ledger=("Weights",)),),
    shell_program=("farspan", "serve", "{model}", "--engine", "builtin"),
    metric_prefix=b"farspan:",
    token_id_fields={"return_token_ids": True},
)
