"""One vLLM server's flags, read: what holds for every context, worked out once for a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from farspan.engines.vllm.flags import VllmFlags, read_flags
from farspan.engines.vllm.versions import VllmRules, rules_for
from farspan.hardware.gpu import Gpu
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.request import PlanRequest
from farspan.value_hash import ValueHash


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
        notes: Warnings about the version.
        pp: Pipeline stages; `model` is then one of them.
        first_stage: Whether this stage embeds tokens and images.
        last_stage: Whether this stage samples.
        expert_replicas: Data-parallel engines that share the experts between them.
    """

    model: ModelSpec
    gpu: Gpu
    tp: int
    rules: VllmRules
    given: VllmFlags
    available_kv_bytes: int | None
    notes: tuple[str, ...]
    pp: int = 1
    first_stage: bool = True
    last_stage: bool = True
    expert_replicas: int = 1

    __hash__ = ValueHash.__hash__


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
) -> VllmConfig:
    rules, chosen = rules_for(version)
    model.check_tp(tp)
    request = PlanRequest(model, gpu, tp, tp, 1, kv_dtype=kv_dtype, engine_flags=dict(flags))
    notes = (chosen.warning,) if chosen.warning else ()
    return VllmConfig(model, gpu, tp, rules, read_flags(request, rules), available_kv_bytes, notes)
