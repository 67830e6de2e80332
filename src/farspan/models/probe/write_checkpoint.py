"""Write the recall checkpoint as a standard Hugging Face folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan.models.checkpoint_folder import folder_bytes, written_whole
from farspan.models.probe.constructed_weights import Tensor, probe_tensors
from farspan.models.probe.design import ProbeDesign
from farspan.models.probe.vocabulary import recall_json, tokenizer_config, tokenizer_json, vocabulary

# Words of one answer when the prompt builder is not told otherwise.
ANSWER_WORDS = 8


@dataclass(frozen=True, slots=True)
class ProbeCheckpoint:
    """A recall checkpoint on disk."""

    folder: Path
    design: ProbeDesign
    size_bytes: int


def probe_config(design: ProbeDesign) -> dict[str, Any]:
    """Return config.json of a design, in Llama4ForCausalLM's terms, so that every engine reads it alike."""
    words = vocabulary()
    layers = range(design.num_hidden_layers)
    rope_layers = [int((layer + 1) % 4 != 0) for layer in layers]
    return {
        "architectures": ["Llama4ForCausalLM"],
        "model_type": "llama4_text",
        "vocab_size": design.vocab_size,
        "hidden_size": design.hidden_size,
        "intermediate_size": design.intermediate_size,
        "intermediate_size_mlp": design.intermediate_size,
        "num_hidden_layers": design.num_hidden_layers,
        "num_attention_heads": design.num_attention_heads,
        "num_key_value_heads": design.num_key_value_heads,
        "head_dim": design.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_chunk_size": design.attention_chunk_size,
        "no_rope_layers": rope_layers,
        "layer_types": ["chunked_attention" if rope else "full_attention" for rope in rope_layers],
        "use_qk_norm": False,
        "attn_temperature_tuning": True,
        "attn_scale": 0.1,
        "floor_scale": 8192,
        # vLLM and SGLang look for every step-th layer, and a step past the last one is dense to both; 0 is dense to
        # vLLM and a mixture to SGLang. transformers goes by moe_layers.
        "interleave_moe_layer_step": 1 if design.num_local_experts else design.num_hidden_layers + 1,
        "moe_layers": list(layers) if design.num_local_experts else [],
        "num_local_experts": design.num_local_experts or 1,
        "num_experts_per_tok": 1,
        "max_position_embeddings": design.max_position_embeddings,
        "rms_norm_eps": 1e-5,
        # The first two are read by releases before transformers 5, the third from there on.
        "rope_theta": design.rope_theta,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": design.rope_theta},
        "tie_word_embeddings": False,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": list(words.eos_token_ids),
        "torch_dtype": "bfloat16",
    }


def write_probe(folder: str | Path, design: ProbeDesign | None = None, **sizes: Any) -> ProbeCheckpoint:
    """Write the recall checkpoint into `folder`, replacing one that is there, and return it.

    The folder is complete or untouched: files are written beside it and moved in at the end.

    Args:
        folder: Where config.json, model.safetensors, tokenizer.json and the rest go.
        design: Its sizes; by default `ProbeDesign(**sizes)`.
        sizes: Fields of `ProbeDesign`.

    Raises:
        InputError: The folder holds something other than a recall checkpoint, or cannot be written.
    """
    design = design or ProbeDesign(**sizes)
    target = Path(folder)
    words = vocabulary()
    with written_whole(target, "recall.json", "is not a recall checkpoint") as made:
        (made / "config.json").write_text(json.dumps(probe_config(design), indent=1))
        (made / "generation_config.json").write_text(json.dumps(_generation_config(), indent=1))
        (made / "tokenizer.json").write_text(tokenizer_json(words))
        (made / "tokenizer_config.json").write_text(
            json.dumps(tokenizer_config(design.max_position_embeddings), indent=1)
        )
        (made / "recall.json").write_text(recall_json(words, design.attention_chunk_size, ANSWER_WORDS))
        (made / "model.safetensors").write_bytes(_safetensors(probe_tensors(design)))
    return ProbeCheckpoint(target, design, folder_bytes(target))


def _generation_config() -> dict[str, Any]:
    words = vocabulary()
    return {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": list(words.eos_token_ids),
        "do_sample": False,
    }


def _safetensors(tensors: dict[str, Tensor]) -> bytes:
    import ml_dtypes
    from safetensors.numpy import save

    return save(
        {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()},
        metadata={"format": "pt"},
    )
