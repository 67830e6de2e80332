"""Small models with dummy weights: a config is all they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCOUT_RANK = {
    "architectures": ["Llama4ForCausalLM"],
    "model_type": "llama4_text",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 24,
    "intermediate_size_mlp": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "attention_chunk_size": 32,
    "floor_scale": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "use_qk_norm": True,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}


def write_config(folder: Path, **changes: Any) -> Path:
    """Write the config of one rank of a small Llama 4 Scout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SCOUT_RANK | changes))
    return folder
