"""Kimi's experts are padded on many ranks: bytes of a rank as vLLM's own class has them, and no shard of one."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.engines.registry import get_engine
from farspan.engines.vllm.loaded_weights import loaded_weights
from farspan.engines.vllm.rank_form import least_expert_width
from farspan.engines.vllm.versions import rules_for
from farspan.errors import UnsupportedError
from farspan.models.config import spec_from_config
from farspan.models.shard.division import Division
from farspan.models.shard.rank_config import shard_config

# Kimi Linear 48B's dimensions, four of its layers.
KIMI_LINEAR: dict[str, Any] = {
    "architectures": ["KimiLinearForCausalLM"], "model_type": "kimi_linear", "vocab_size": 163_840,
    "hidden_size": 2304, "head_dim": 72, "intermediate_size": 9216, "num_hidden_layers": 4, "num_attention_heads": 32,
    "num_key_value_heads": 32, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "moe_intermediate_size": 1024, "num_experts": 256, "num_experts_per_token": 8, "num_shared_experts": 1,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "q_lora_rank": None, "kv_lora_rank": 512, "v_head_dim": 128,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "mla_use_nope": True, "max_position_embeddings": 1_048_576,
    "linear_attn_config": {
        "full_attn_layers": [4], "kda_layers": [1, 2, 3], "head_dim": 128, "num_heads": 32,
        "short_conv_kernel_size": 4,
    },
}  # fmt: skip
# Parameters that vLLM 0.32.0's KimiLinearForCausalLM makes on one of eight ranks, counted on the meta device.
OWN_CLASS_BYTES = 2_973_844_784


def _bytes(version: str, tp: int, *, expert_parallel: bool = False) -> int:
    model, rules = spec_from_config(KIMI_LINEAR, "kimi"), rules_for(version)[0]
    loaded = loaded_weights(
        model,
        tp,
        expert_parallel=expert_parallel,
        expert_replicas=1,
        least_expert_width=least_expert_width(model.architecture, rules),
    )
    return loaded.weights - loaded.absorbed


def test_a_ranks_share_of_an_expert_is_at_least_256_wide() -> None:
    assert _bytes("0.33.0", 8) == pytest.approx(OWN_CLASS_BYTES, rel=1e-4)
    # Of three layers' 256 experts half is padding: 128 of 256, in gate, up and down.
    assert _bytes("0.33.0", 8) - _bytes("0.27.1", 8) == 3 * 256 * 3 * 128 * 2304 * 2
    assert _bytes("0.33.0", 4) == _bytes("0.27.1", 4)
    assert _bytes("0.33.0", 8, expert_parallel=True) == _bytes("0.27.1", 8, expert_parallel=True)


def test_no_config_says_a_padded_expert() -> None:
    form = get_engine("vllm").config_form("KimiLinearForCausalLM", "0.33.0")
    with pytest.raises(UnsupportedError, match="expert width is 128, which the engine pads to 256") as caught:
        shard_config(KIMI_LINEAR, "kimi", Division(8), form=form)
    assert caught.value.fix == "use --tp 4"
    older = get_engine("vllm").config_form("KimiLinearForCausalLM", "0.26.0")
    shard_config(KIMI_LINEAR, "kimi", Division(8), form=older)
    shard_config(
        KIMI_LINEAR, "kimi", Division(8), form=get_engine("sglang").config_form("KimiLinearForCausalLM", "")
    )
