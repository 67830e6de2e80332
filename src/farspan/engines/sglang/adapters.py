"""Memory of LoRA: buffers for so many adapters in the projections named, made before the KV pool is sized.

Mirrors `LoRAMemoryPool.init_buffers` (srt/lora/mem_pool.py, 0.5.6.post2 to 0.5.23) for dense models.
"""

from __future__ import annotations

from dataclasses import dataclass

from farspan.errors import InputError, UnsupportedError
from farspan.models.lora import adapter_values
from farspan.models.spec import AttentionKind, ModelSpec
from farspan.planner.request import PlanRequest
from farspan.value_hash import ValueHash

# As peft names them, and what SGLang keeps them as (lora/utils.py: get_normalized_target_modules).
_PROJECTIONS = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "qkv_proj": "qkv", "o_proj": "o",
    "gate_proj": "gate_up", "up_proj": "gate_up", "gate_up_proj": "gate_up", "down_proj": "down",
}  # fmt: skip
# Dense classes whose layers have these projections and no others.
_CLASSES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
_PLAN_WITHOUT = "plan without --enable-lora, and leave room: two matrices a projection, adapter and rank"
_OTHER_FLAGS = ("--lora-use-virtual-experts", "--experts-shared-outer-loras")


@dataclass(frozen=True, slots=True)
class AdapterPool(ValueHash):
    """What was asked of LoRA.

    Args:
        slots: Adapters of one batch, requests without one counted as one of them.
        rank: The largest rank.
        projections: Which take adapters.
    """

    slots: int
    rank: int
    projections: frozenset[str]

    __hash__ = ValueHash.__hash__


def read_adapters(request: PlanRequest) -> AdapterPool | None:
    """Read the LoRA flags; None without them.

    Raises:
        InputError: A value that SGLang refuses.
        UnsupportedError: A model whose adapters are not mirrored, or flags that leave rank and projections to
            adapters that farspan does not read.
    """
    if not request.has_flag("--enable-lora", "--lora-paths"):
        return None
    model = request.model
    shaped = all(
        layer.attention in (AttentionKind.FULL, AttentionKind.SLIDING_WINDOW) for layer in model.layers
    )
    if model.architecture not in _CLASSES or not shaped:
        raise UnsupportedError(
            f"LoRA adapters are mirrored for {', '.join(sorted(_CLASSES))}, not for {model.architecture}",
            _PLAN_WITHOUT,
        )
    for name in _OTHER_FLAGS:
        if request.has_flag(name):
            raise UnsupportedError(
                f"{name} keeps LoRA adapters in a way farspan does not mirror", f"plan without {name}"
            )
    names = request.text_flag("", "--lora-target-modules").replace(",", " ").split()
    unknown = [name for name in names if name not in _PROJECTIONS]
    if not names or unknown or not request.has_flag("--max-lora-rank"):
        raise UnsupportedError(
            "LoRA adapters are planned by --max-lora-rank and --lora-target-modules of "
            f"{', '.join(_PROJECTIONS)}" + (f"; given: {' '.join(names)}" if names else ""),
            "give both, or " + _PLAN_WITHOUT,
        )
    slots, rank = request.int_flag(8, "--max-loras-per-batch"), request.int_flag(0, "--max-lora-rank")
    if slots < 1 or rank < 1:
        raise InputError(
            f"--max-loras-per-batch {slots} --max-lora-rank {rank} is not positive", "give at least 1"
        )
    return AdapterPool(slots, rank, frozenset(_PROJECTIONS[name] for name in names))


def adapter_bytes(model: ModelSpec, pool: AdapterPool | None, tp: int) -> int:
    """Bytes of the buffers on one rank."""
    if pool is None:
        return 0
    values = 0
    for layer in model.layers:
        by_projection = adapter_values(layer, model.hidden_size, pool.rank, tp)._asdict()
        values += sum(size for name, size in by_projection.items() if name in pool.projections)
    return pool.slots * values * model.dtype_bytes
