"""One SGLang server's flags, read and filled in: what holds for every context, worked out once for a sweep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from farspan.engines.sglang.defaults import LONG_CONTEXT, Resolved, resolve
from farspan.engines.sglang.elastic import ElasticServer, check_version, elastic_server
from farspan.engines.sglang.flag_checks import INT8, quantizes_while_loading
from farspan.engines.sglang.flags import SglangFlags, passed_on, read_flags
from farspan.engines.sglang.layout import SglangKvLayout, is_hybrid, kv_layout
from farspan.engines.sglang.speculative import Draft, draft_of
from farspan.engines.sglang.tables import rope_covers, served_ropes
from farspan.engines.sglang.versions import SglangRules, rules_for
from farspan.errors import InputError, UnsupportedError
from farspan.hardware.gpu import Gpu
from farspan.models.online_fp8 import with_online_fp8
from farspan.models.spec import KvDtype, ModelSpec
from farspan.models.state_dtypes import with_recurrent_dtype
from farspan.planner.calibration import (
    Calibration,
    CalibrationKey,
    Calibrations,
    find_calibration,
    kv_name,
)
from farspan.planner.engine_flags import split_environment
from farspan.planner.request import PlanRequest
from farspan.planner.timing import has_experts
from farspan.value_hash import ValueHash


@dataclass(frozen=True, slots=True)
class SglangConfig(ValueHash):
    """What does not depend on the context. Compared by value and hashed once: it is part of cache keys.

    Args:
        model: The model.
        gpu: The GPU, all alike.
        tp: Tensor-parallel size.
        rules: The version's rules.
        given: Flags as given.
        resolved: Flags once SGLang's defaults are filled in.
        layout: Bytes a token.
        rope_covers: A context up to which no RoPE table is grown.
        warnings: What to know about the version.
        passed_on: Words of the flags farspan does not write itself, as given.
        env: Environment variables, name and value, as given.
        elastic: What is elastic with farspan's plug-in; None without it.
        draft: What drafts, in speculative decoding with a model; else None.
        calibration: What this machine was found to do under these conditions, if it was.
    """

    model: ModelSpec
    gpu: Gpu
    tp: int
    rules: SglangRules
    given: SglangFlags
    resolved: Resolved
    layout: SglangKvLayout
    rope_covers: int
    warnings: tuple[str, ...]
    passed_on: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    elastic: ElasticServer | None = None
    draft: Draft | None = None
    calibration: Calibration | None = None

    __hash__ = ValueHash.__hash__

    @property
    def attention_tp(self) -> int:
        """Ranks that share one KV cache."""
        return self.tp // self.given.attention_groups

    @property
    def eager(self) -> bool:
        """Whether it decodes without CUDA graphs."""
        return not self.resolved.graph_bs

    @property
    def has_elastic_pools(self) -> bool:
        """Whether its KV pools grow and shrink."""
        return self.elastic is not None and self.elastic.pools

    @property
    def conditions(self) -> CalibrationKey:
        """What a calibration of this server is kept under."""
        return _conditions(self)

    def decisive_context(self, context_length: int) -> int:
        """`context_length` where loading or the split of the pools depends on it, else 0."""
        decides = (
            context_length > self.rope_covers or self.given.hybrid_ratio is not None or self.has_elastic_pools
        )
        return context_length if decides else 0


def config_of(request: PlanRequest) -> SglangConfig:
    """Read a request's flags and fill in SGLang's defaults; the same object for every context of a sweep.

    Raises:
        InputError: Unknown version, a flag SGLang refuses or farspan does not mirror, a TP size the model does
            not allow, an architecture this version does not implement.
    """
    return _config(
        tuple(request.engine_flags.items()),
        request.model,
        request.gpu,
        request.tp,
        request.kv_dtype,
        request.engine_version,
        request.context > LONG_CONTEXT,
        request.calibrations,
    )


@lru_cache(maxsize=64)
def _config(
    flags: tuple[tuple[str, str | None], ...],
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    kv_dtype: KvDtype,
    version: str,
    long_context: bool,
    calibrations: Calibrations,
) -> SglangConfig:
    rules, note = rules_for(version)
    if not rules.implements(model.architecture):
        raise InputError(
            f"sglang {rules.version} has no implementation of {model.architecture}",
            "choose a newer --engine-version, or plan it for vLLM",
        )
    model.check_tp(tp)
    request = PlanRequest(model, gpu, tp, tp, 0, kv_dtype=kv_dtype, engine_flags=dict(flags))
    check_version(request, rules)
    given = read_flags(request, rules)
    model = replace(with_recurrent_dtype(model, given.state_dtype), ropes=served_ropes(model, rules))
    if quantizes_while_loading(request):
        named = request.text_flag("", "--quantization")
        model = with_online_fp8(model, INT8 if named == INT8 else "fp8")
    resolved = resolve(given, model, gpu, tp, rules, long_context=long_context)
    hybrid = is_hybrid(model, rules, ratio=given.hybrid_ratio, off=given.hybrid_off)
    layout = kv_layout(model, resolved.kv_dtype, tp // given.attention_groups, rules, hybrid=hybrid)
    draft = draft_of(model, given.speculation, tp, resolved.kv_dtype)
    if draft is not None:
        layout = layout.with_draft(draft.layers, rules)
    elastic = elastic_server(request, given, resolved, layout, rules)
    if elastic is not None and given.speculation is not None:
        raise UnsupportedError(
            "speculative decoding on elastic memory is not mirrored", "plan without one of them"
        )
    variables = elastic.variables if elastic else ()
    config = SglangConfig(
        model=model,
        gpu=gpu,
        tp=tp,
        rules=rules,
        given=given,
        resolved=resolved,
        layout=layout,
        rope_covers=min((rope_covers(rope) for rope in model.ropes), default=model.max_position_embeddings),
        warnings=(note,) if note else (),
        passed_on=passed_on(request.engine_flags),
        env=(*split_environment(request.engine_flags)[1].items(), *variables),
        elastic=elastic,
        draft=draft,
    )
    found = find_calibration(calibrations, config.conditions)
    return config if found is None else replace(config, calibration=found)


@lru_cache(maxsize=1024)
def _conditions(config: SglangConfig) -> CalibrationKey:
    backend, kv = config.resolved.attention_backend, kv_name(config.resolved.kv_dtype)
    return CalibrationKey(
        "sglang", config.rules.version, backend, kv, config.gpu.name, config.eager, has_experts(config.model)
    )
