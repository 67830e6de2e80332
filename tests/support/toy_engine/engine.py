from __future__ import annotations

from collections.abc import Mapping, Sequence

from farspan.engines.command import EngineCommand, Listen, Nodes
from farspan.engines.engine import Engine, StartSeconds
from farspan.engines.logs.line_pattern import LinePattern
from farspan.engines.logs.rule import Rule, StateRule
from farspan.engines.metric_source import Measure, MetricSource
from farspan.planner.lever_candidate import LeverCandidate
from farspan.planner.levers import set_flag
from farspan.planner.request import EnginePlan, PlanRequest
from toy_engine.plan import KNOWN_VERSIONS, plan_toy


class Toy(Engine):
    def known_versions(self) -> tuple[str, ...]:
        return KNOWN_VERSIONS

    def plan_server(self, request: PlanRequest) -> EnginePlan:
        return plan_toy(request, outline=False)

    def outline_server(self, request: PlanRequest) -> EnginePlan:
        return plan_toy(request, outline=True)

    def levers(self) -> Sequence[LeverCandidate]:
        return (LeverCandidate("--lean", "no room for spikes", set_flag("--lean", None)),)

    def image(self, version: str) -> str:
        return f"example/toy:{version}"

    def build_command(
        self,
        model: str,
        flags: Sequence[str],
        env: Mapping[str, str],
        listen: Listen,
        nodes: Nodes,
        python: str,
    ) -> EngineCommand:
        program = (python, "-m", "toy") if python else ("toy",)
        secrets = (self.key_variable,) if listen.with_key else ()
        return EngineCommand(program, ("run", model, *flags, *listen.flags), env, secrets)

    def live_path(self, *, with_key: bool) -> str:
        return "/alive"

    def metric_sources(self) -> Mapping[Measure, tuple[MetricSource, ...]]:
        return {
            Measure.RUNNING: (MetricSource("toy:running"),),
            Measure.KV_USAGE: (MetricSource("toy:pool_usage", max),),
        }

    def log_patterns(self) -> tuple[LinePattern, ...]:
        from toy_engine.log_grammar import LINES

        return LINES

    def doctor_rules(self) -> tuple[Rule | StateRule, ...]:
        from toy_engine.rules import RULES

        return RULES


ENGINE = Toy(
    name="toy",
    title="Toy Server",
    owned_by="toyworks",
    distributions=("toy",),
    key_variable="TOY_API_KEY",
    context_flag="--ctx",
    environment={"TOY_QUIET": "1"},
    start_seconds=StartSeconds(engine=1.0, compile=0.0, profile=0.0, graphs=0.0, basis="the rest assumed"),
    shell_program=("toy", "run", "{model}"),
    metric_prefix=b"toy:",
    metrics_hint="start it with --metrics",
)
