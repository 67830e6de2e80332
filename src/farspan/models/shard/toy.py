"""A model at toy scale: its own kinds of layers, heads and experts, small enough for a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farspan.errors import UnsupportedError
from farspan.models.shard.text_config import extract_text

_FAMILIES = ("LlamaForCausalLM", "Llama4ForCausalLM")
_LAYERS, _HEAD, _HIDDEN, _WIDTH_A_RANK, _EXPERTS, _VOCABULARY_A_RANK, _CHUNK = 4, 16, 64, 32, 4, 512, 512


def toy_config(config: Mapping[str, Any], tp: int) -> dict[str, Any]:
    """Return the config of a small model of the same family that divides over as many ranks.

    Args:
        config: The model's config.json.
        tp: Tensor-parallel size.

    Raises:
        UnsupportedError: It is none of the Llama family, which the engine for CPUs runs.
    """
    fields, _ = extract_text(config)
    if fields["architectures"][0] not in _FAMILIES:
        raise UnsupportedError(
            f"there is no toy of {fields['architectures'][0]}: the engine for CPUs runs Llama models",
            "try it with llama-4-scout or llama-3.1-70b",
        )
    for name in ("quantization_config", "compression_config", "layer_types", "no_rope_layers", "moe_layers"):
        fields.pop(name, None)
    fields |= {
        "hidden_size": _HIDDEN,
        "head_dim": _HEAD,
        "num_hidden_layers": _LAYERS,
        "intermediate_size": tp * _WIDTH_A_RANK,
        "vocab_size": tp * _VOCABULARY_A_RANK,
    }
    if "num_local_experts" in fields:
        fields |= {
            "intermediate_size_mlp": tp * _WIDTH_A_RANK,
            "num_local_experts": min(_EXPERTS, fields["num_local_experts"]),
            "attention_chunk_size": _CHUNK,
        }
    return fields
