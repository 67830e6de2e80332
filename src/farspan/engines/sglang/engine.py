"""SGLang."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from farspan.engines.engine import Engine
from farspan.engines.sglang.start_phases import START_FIGURES, START_SECONDS

if TYPE_CHECKING:
    from farspan.engines.command import EngineCommand, Listen, Nodes
    from farspan.engines.logs.line_pattern import LinePattern
    from farspan.engines.logs.rule import Rule, StateRule
    from farspan.engines.metric_source import Measure, MetricSource
    from farspan.models.shard.config_form import ConfigForm
    from farspan.planner.lever_candidate import LeverCandidate
    from farspan.planner.request import EnginePlan, PlanRequest


class Sglang(Engine):
    """SGLang."""

    def known_versions(self) -> tuple[str, ...]:
        from farspan.engines.sglang.versions import KNOWN_VERSIONS

        return KNOWN_VERSIONS

    def _of_replicas(self, request: PlanRequest, *, outline: bool) -> EnginePlan:
        from farspan.engines.sglang.flags import attention_groups

        if request.engine_flags:
            spelled = self.spell_out(request)
            if attention_groups(spelled) > 1:
                # The groups of data-parallel attention share the weights: they are one server.
                return self.outline_server(spelled) if outline else self.plan_server(spelled)
        return super()._of_replicas(request, outline=outline)

    def plan_server(self, request: PlanRequest) -> EnginePlan:
        from farspan.engines.sglang.plan import plan_sglang

        return plan_sglang(request)

    def outline_server(self, request: PlanRequest) -> EnginePlan:
        from farspan.engines.sglang.plan import outline_sglang

        return outline_sglang(request)

    def spell_out(self, request: PlanRequest) -> PlanRequest:
        """Return the question with flags under their whole names: its parser takes any beginning that only one has."""
        from farspan.engines.sglang.known_names import spell_out
        from farspan.engines.sglang.versions import rules_for

        rules, _ = rules_for(request.engine_version)
        return request.with_flags(spell_out(request.engine_flags, rules.version))

    def grouped(self, request: PlanRequest, tp: int, groups: int) -> PlanRequest | None:
        from farspan.engines.sglang.flags import asks_for_groups

        if asks_for_groups(request) or not any(layer.moe for layer in request.model.layers):
            return None
        flags = {"--dp-size": str(groups), "--enable-dp-attention": None}
        ranks = tp * groups
        return replace(request, gpus=ranks, tp=ranks, engine_flags={**request.engine_flags, **flags})

    @cached_property
    def _levers(self) -> tuple[LeverCandidate, ...]:
        from farspan.engines.sglang.levers import sglang_levers

        return sglang_levers(self.outline)

    def levers(self) -> tuple[LeverCandidate, ...]:
        return self._levers

    def elastic_words(self) -> tuple[str, ...]:
        from farspan.engines.sglang.elastic import BACKEND, BACKEND_FLAG

        return (BACKEND_FLAG, BACKEND)

    def check_elastic(self, python: str) -> None:
        from farspan.engines.sglang.plugin_check import check_plugin

        check_plugin(python)

    def image(self, version: str) -> str:
        # Half the size of the image without "-runtime" (sgl-project/sglang#13861).
        return f"lmsysorg/sglang:v{version}-runtime"

    def build_command(
        self,
        model: str,
        flags: Sequence[str],
        env: Mapping[str, str],
        listen: Listen,
        nodes: Nodes,
        python: str,
    ) -> EngineCommand:
        from farspan.engines.sglang.command import sglang_command

        return sglang_command(model, flags, env, listen, nodes, python, self.key_variable)

    def live_path(self, *, with_key: bool) -> str:
        # /ping answers from the HTTP process; with an API key it wants the key, which a probe cannot send, and /health
        # does not (`add_api_key_middleware`).
        return "/health" if with_key else "/ping"

    def expert_parallel_words(self, ranks: int) -> tuple[str, ...]:
        return ("--ep-size", str(ranks))

    def config_form(self, architecture: str, version: str) -> ConfigForm:  # noqa: ARG002
        from farspan.engines.sglang.rank_form import form_of

        return form_of(architecture)

    def log_patterns(self) -> tuple[LinePattern, ...]:
        from farspan.engines.sglang.log_grammar import LINES

        return LINES

    def doctor_rules(self) -> tuple[Rule | StateRule, ...]:
        from farspan.engines.sglang.rules import RULES

        return RULES

    def flag_names(self) -> frozenset[str]:
        from farspan.engines.sglang.known_names import flag_names

        return flag_names()

    def metric_sources(self) -> Mapping[Measure, tuple[MetricSource, ...]]:
        from farspan.engines.sglang.metrics import METRIC_SOURCES

        return METRIC_SOURCES


ENGINE = Sglang(
    name="sglang",
    title="SGLang",
    owned_by="sglang",
    distributions=("sglang",),
    # SGLang itself reads no key from the environment: see `start_with_key`.
    key_variable="SGLANG_API_KEY",
    context_flag="--context-length",
    data_parallel_flags=("--data-parallel-size", "--dp-size", "--dp"),
    tensor_parallel_flags=("--tensor-parallel-size", "--tp-size", "--tp"),
    pipeline_flags=("--pipeline-parallel-size", "--pp-size"),
    memory_share_flag="--mem-fraction-static",
    step_tokens_flag="--chunked-prefill-size",
    eager_flags=("--disable-cuda-graph",),
    cpu_flags=("--device", "cpu"),
    logged_flags=(
        "mem_fraction_static",
        "max_running_requests",
        "max_total_tokens",
        "chunked_prefill_size",
        "swa_full_tokens_ratio",
        "hybrid_kvcache_ratio",
        "disable_cuda_graph",
        "disable_radix_cache",
        "page_size",
        "attention_backend",
    ),
    logged_defaults={"swa_full_tokens_ratio": 0.8, "page_size": 1},
    # /health generates a token and answers 503 when a step takes over 20 s, as every step of a long prefill does
    # (sglang 0.5.6.post2 to 0.5.23 srt/entrypoints/http_server.py: health_generate).
    environment={"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0"},
    start_seconds=START_SECONDS,
    start_figures=START_FIGURES,
    kv_figure="max_total_num_tokens",
    shell_program=("python3", "-m", "sglang.launch_server", "--model-path", "{model}"),
    metric_prefix=b"sglang:",
    dummy_weight_flags=("--load-format", "dummy"),
    metrics_hint="start SGLang with --enable-metrics",
)
