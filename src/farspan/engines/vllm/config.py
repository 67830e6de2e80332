"""One vLLM server's flags, read: what holds for every context, worked out once for a sweep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from farspan.engines.vllm.defaults import resolve_kv_dtype
from farspan.engines.vllm.flags import VllmFlags, read_flags
from farspan.engines.vllm.served_model import draft_notes, pipeline_stages, served_model
from farspan.engines.vllm.speculative import DRAFT_MODEL
from farspan.engines.vllm.versions import VllmRules, rules_for
from farspan.errors import InputError, UnsupportedError
from farspan.hardware.gpu import Gpu
from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.planner.calibration import (
    Calibration,
    CalibrationKey,
    Calibrations,
    find_calibration,
    kv_name,
)
from farspan.planner.remarks import Remarks
from farspan.planner.request import PlanRequest
from farspan.planner.timing import has_experts
from farspan.planner.versions import version_key
from farspan.value_hash import ValueHash

_DRAFTS_SINCE = "0.15.0"  # the release with v1/spec_decode/draft_model.py


@dataclass(frozen=True, slots=True)
class VllmConfig(ValueHash):
    """What does not depend on the context. Compared by value and hashed once: it is part of cache keys.

    Args:
        model: The model.
        gpu: The GPU, all alike.
        tp: Tensor-parallel size.
        rules: The version's rules.
        given: Flags as given.
        available_kv_bytes: The engine's own figure for KV memory on one GPU, when known.
        remarks: What to know about the version and what is assumed.
        pp: Pipeline stages; `model` is then one of them.
        first_stage: Whether this stage embeds tokens and images.
        last_stage: Whether this stage samples.
        expert_replicas: Data-parallel engines that share the experts between them.
        stages: The models of all pipeline stages.
        calibration: What this machine was found to do under these conditions, if it was.
    """

    model: ModelSpec
    gpu: Gpu
    tp: int
    rules: VllmRules
    given: VllmFlags
    available_kv_bytes: int | None
    remarks: Remarks
    pp: int = 1
    first_stage: bool = True
    last_stage: bool = True
    expert_replicas: int = 1
    stages: tuple[ModelSpec, ...] = ()
    calibration: Calibration | None = None

    __hash__ = ValueHash.__hash__

    @property
    def conditions(self) -> CalibrationKey:
        """What a calibration of this server is kept under."""
        return _conditions(self)

    def of_stage(self, index: int) -> VllmConfig:
        """What one pipeline stage runs."""
        return replace(
            self, model=self.stages[index], first_stage=index == 0, last_stage=index == len(self.stages) - 1
        )


def config_of(request: PlanRequest) -> VllmConfig:
    """Read a request's flags; the same object for every context of a sweep.

    Raises:
        InputError: Unknown version, a flag vLLM refuses or farspan does not mirror, a TP size the model does
            not allow.
    """
    return _config(
        tuple(request.engine_flags.items()),
        request.model,
        request.gpu,
        request.tp,
        request.kv_dtype,
        request.engine_version,
        request.available_kv_bytes,
        request.gpus,
        request.replicas,
        request.calibrations,
    )


@lru_cache(maxsize=256)
def _config(
    flags: tuple[tuple[str, str | None], ...],
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    kv_dtype: KvDtype,
    version: str,
    available_kv_bytes: int | None,
    gpus: int,
    replicas: int,
    calibrations: Calibrations,
) -> VllmConfig:
    rules, chosen = rules_for(version)
    model.check_tp(tp)
    request = PlanRequest(model, gpu, tp, tp, 1, kv_dtype=kv_dtype, engine_flags=dict(flags))
    given = read_flags(request, rules)
    if tp * given.pipeline > gpus:
        raise InputError(
            f"{given.pipeline} pipeline stages of {tp} GPUs need {tp * given.pipeline}, and there are {gpus}",
            f"use --tp {max(1, gpus // given.pipeline)}",
        )
    if given.adapters is not None and (given.pipeline > 1 or given.speculative):
        raise UnsupportedError(
            "--enable-lora beside pipeline stages or speculative decoding is not mirrored",
            "plan without one of them",
        )
    served = served_model(model, given)
    _check_context_ranks(served, given, tp)
    if model.is_compressed:
        from farspan.engines.vllm.compressed import check_compressed  # for DeepSeek V4 alone

        check_compressed(
            model,
            rules,
            given.kv_dtype,
            given.block_size,
            alone=given.pipeline == 1 and not given.speculative,
            hybrid=given.hybrid is not False,
        )
    notes: list[str] = []
    whole = given.speculative == DRAFT_MODEL
    if whole and version_key(rules.version) < version_key(_DRAFTS_SINCE):
        raise InputError(
            f"vllm {rules.version} does not draft with a whole model",
            f"use --engine-version {_DRAFTS_SINCE} or newer, or EAGLE",
        )
    if whole and given.draft_ranks not in (None, tp):
        raise InputError(
            f"draft_tensor_parallel_size {given.draft_ranks} is not --tp {tp}, and vLLM wants a draft model's equal",
            "drop it",
        )
    notes += draft_notes(model, served, given)
    if given.pipeline > 1:
        notes.append(
            f"Of {given.pipeline} pipeline stages the one with the least room decides; the figures are its own. Times "
            f"are those of one group of {tp} GPUs: stages take turns on a token, and overlap on a long prompt."
        )
    shared = replicas if any(layer.moe for layer in model.layers) else 1
    if shared > 1:
        notes.append(
            f"The {replicas} engines share the experts out between them; buffers of their exchange are not counted "
            "(assumed)."
        )
    stages = pipeline_stages(served, given.pipeline)
    config = VllmConfig(
        served,
        gpu,
        tp,
        rules,
        given,
        available_kv_bytes,
        Remarks((chosen.warning,) if chosen.warning else (), tuple(notes)),
        pp=given.pipeline,
        expert_replicas=shared,
        stages=stages,
    )
    found = find_calibration(calibrations, config.conditions)
    if found is None:
        return config
    return replace(config, calibration=found, remarks=Remarks(config.remarks.warnings, (found.note, *notes)))


@lru_cache(maxsize=1024)
def _conditions(config: VllmConfig) -> CalibrationKey:
    kv = kv_name(resolve_kv_dtype(config.model, config.given.kv_dtype))
    backend, eager = config.given.attention_backend, config.given.enforce_eager
    return CalibrationKey(
        "vllm", config.rules.version, backend, kv, config.gpu.name, eager, has_experts(config.model)
    )


def _check_context_ranks(model: ModelSpec, given: VllmFlags, tp: int) -> None:
    """vllm config/model.py: verify_with_parallel_config; windows and states cannot be shared out.

    Raises:
        InputError: The ranks do not divide as the engine wants them.
    """
    ranks = given.context_ranks
    if ranks == 1:
        return
    kinds = {layer.attention for layer in model.layers}
    if not kinds <= {AttentionKind.FULL, AttentionKind.MLA}:
        raise InputError(
            f"--decode-context-parallel-size {ranks} needs full attention in every layer, and {model.name} has others",
            "drop it",
        )
    heads = 1 if AttentionKind.MLA in kinds else model.num_kv_heads
    if tp % ranks or tp // heads < ranks:
        raise InputError(
            f"--decode-context-parallel-size {ranks} does not fit TP {tp} over {heads} KV heads",
            f"give one that divides {max(1, tp // heads)}",
        )
