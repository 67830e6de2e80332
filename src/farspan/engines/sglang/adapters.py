"""Memory of LoRA: buffers for so many adapters in the projections named, made before the KV pool is sized.

Mirrors `LoRAMemoryPool.init_buffers` (srt/lora/mem_pool.py, 0.5.6.post2 to 0.5.23) for dense models, and for Qwen3's
experts, each of which has matrices of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.sglang.versions import SglangRules
from farspan.errors import InputError, UnsupportedError
from farspan.models.lora import adapter_values
from farspan.models.spec import AttentionKind, LayerSpec, ModelSpec
from farspan.planner.request import PlanRequest
from farspan.planner.versions import version_key

# As peft names them, and what SGLang keeps them as (lora/utils.py: get_normalized_target_modules).
_PROJECTIONS = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "qkv_proj": "qkv", "o_proj": "o",
    "gate_proj": "gate_up", "up_proj": "gate_up", "gate_up_proj": "gate_up", "down_proj": "down",
}  # fmt: skip
# Dense classes whose layers have these projections and no others.
_CLASSES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
_EXPERT_CLASSES = frozenset({"Qwen3MoeForCausalLM"})  # every layer experts, none shared
_WORDS = ("embed_tokens", "lm_head")
_ALL = "all"
_WORDS_SINCE, _EXPERTS_SINCE = "0.5.6", "0.5.10"
_PLAN_WITHOUT = "plan without --enable-lora, and leave room: two matrices a projection, adapter and rank"
EXPERT_RANKS = ("--ep-size", "--expert-parallel-size", "--ep")
_OTHER_FLAGS = ("--lora-use-virtual-experts", "--experts-shared-outer-loras")


class AdapterPool(NamedTuple):
    """What was asked of LoRA.

    Args:
        slots: Adapters of one batch, requests without one counted as one of them.
        rank: The largest rank.
        projections: Which take adapters.
        splits_words: Whether the output head's second matrix is divided by tensor parallelism.
    """

    slots: int
    rank: int
    projections: frozenset[str]
    splits_words: bool


def read_adapters(request: PlanRequest, rules: SglangRules) -> AdapterPool | None:
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
    known = _CLASSES | (_EXPERT_CLASSES if _since(rules, _EXPERTS_SINCE) else frozenset())
    if model.architecture not in known or not shaped:
        raise UnsupportedError(
            f"LoRA adapters are mirrored for {', '.join(sorted(known))}, not for {model.architecture}",
            _PLAN_WITHOUT,
        )
    if any(layer.moe for layer in model.layers) and request.int_flag(1, *EXPERT_RANKS) > 1:
        raise UnsupportedError(
            f"LoRA adapters beside {EXPERT_RANKS[0]} are not mirrored", f"drop {EXPERT_RANKS[0]}"
        )
    for name in _OTHER_FLAGS:
        if request.has_flag(name):
            raise UnsupportedError(
                f"{name} keeps LoRA adapters in a way farspan does not mirror", f"plan without {name}"
            )
    names = request.text_flag("", "--lora-target-modules").replace(",", " ").split()
    words = _WORDS if _since(rules, _WORDS_SINCE) else ()
    if names == [_ALL]:
        names = [*_PROJECTIONS, *words]
    unknown = [name for name in names if name not in _PROJECTIONS and name not in words]
    if not names or unknown or not request.has_flag("--max-lora-rank"):
        raise UnsupportedError(
            "LoRA adapters are planned by --max-lora-rank and --lora-target-modules of "
            f"{', '.join((*_PROJECTIONS, *words, _ALL))}" + (f"; given: {' '.join(names)}" if names else ""),
            "give both, or " + _PLAN_WITHOUT,
        )
    slots, rank = request.int_flag(8, "--max-loras-per-batch"), request.int_flag(0, "--max-lora-rank")
    if slots < 1 or rank < 1:
        raise InputError(
            f"--max-loras-per-batch {slots} --max-lora-rank {rank} is not positive", "give at least 1"
        )
    projections = frozenset(_PROJECTIONS.get(name, name) for name in names)
    return AdapterPool(slots, rank, projections, _since(rules, _EXPERTS_SINCE))


def _since(rules: SglangRules, version: str) -> bool:
    return version_key(rules.version) >= version_key(version)


def adapter_bytes(model: ModelSpec, pool: AdapterPool | None, tp: int) -> int:
    """Bytes of the buffers on one rank."""
    if pool is None:
        return 0
    values = 0
    for layer in model.layers:
        by_projection = adapter_values(layer, model.hidden_size, pool.rank, tp)._asdict()
        # A layer of experts has no MLP beside them.
        held = pool.projections - ({"gate_up", "down"} if layer.moe else set())
        values += sum(size for name, size in by_projection.items() if name in held)
        values += _expert_values(layer, model.hidden_size, pool, tp)
    values += _word_values(model, pool, tp)
    return pool.slots * values * model.dtype_bytes


def _expert_values(layer: LayerSpec, hidden: int, pool: AdapterPool, tp: int) -> int:
    """Two matrices of every expert's projections."""
    if layer.moe is None:
        return 0
    inner, rank = layer.moe.intermediate_size // tp, pool.rank
    gate_up = 2 * rank * hidden + 2 * inner * rank if "gate_up" in pool.projections else 0
    down = rank * inner + hidden * rank if "down" in pool.projections else 0
    return layer.moe.num_experts * (gate_up + down)


def _word_values(model: ModelSpec, pool: AdapterPool, tp: int) -> int:
    """Embedding and output head; with both, SGLang makes the matrices of both twice (`init_embedding_buffer`)."""
    asked = [name for name in _WORDS if name in pool.projections]
    head = model.vocab_size // tp if pool.splits_words else model.vocab_size
    sizes = {"embed_tokens": model.vocab_size + model.hidden_size, "lm_head": model.hidden_size + head}
    return len(asked) * pool.rank * sum(sizes[name] for name in asked)
