"""Recurrent states of Mamba's layers where prefixes are cached: one a block up to 0.27, the last alone after."""

from __future__ import annotations

from farspan.engines.registry import get_engine
from farspan.hardware.catalog import find_gpu
from farspan.models.config import spec_from_config
from farspan.planner.request import EnginePlan, PlanRequest

# Nemotron-H's layers at the width of its 9B: four of Mamba 2, one of attention.
CONFIG = {
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "M-M-M*-M",
    "num_hidden_layers": 8,
    "hidden_size": 4480,
    "intermediate_size": 15_680,
    "vocab_size": 131_072,
    "max_position_embeddings": 131_072,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 80,
    "ssm_state_size": 128,
    "n_groups": 8,
    "conv_kernel": 4,
    "chunk_size": 128,
    "expand": 2,
    "torch_dtype": "bfloat16",
    "mamba_ssm_cache_dtype": "float32",
    "use_bias": False,
    "use_conv_bias": True,
    "mlp_bias": False,
    "attention_bias": False,
    "mamba_proj_bias": False,
    "tie_word_embeddings": False,
}
TOKENS = 100_000


def answer(version: str, *flags: str) -> EnginePlan:
    model = spec_from_config(CONFIG, "nemotron-h")
    given: dict[str, str | None] = {
        name: value or None for name, _, value in (flag.partition("=") for flag in flags)
    }
    request = PlanRequest(
        model, find_gpu("H100"), 1, 1, TOKENS, engine_version=version, engine_flags=given, as_given=True
    )
    return get_engine("vllm").plan(request)


def test_a_block_is_of_whole_chunks_where_every_state_is_kept() -> None:
    """5,316,608 bytes a state over 4,096 a token: 1,298 tokens, in chunks of 128 or in steps of 16."""
    model = spec_from_config(CONFIG, "nemotron-h")
    state = next(layer for layer in model.layers if layer.states).state_bytes(1)
    assert state == 128 * 80 * 128 * 4 + (128 * 80 + 2 * 8 * 128) * 3 * 2
    kept, last = answer("0.26.0"), answer("0.28.0")
    # Four groups of recurrent layers and one of attention, whose blocks are as many; or one and two states each.
    assert round(kept.available_kv_bytes / (kept.max_concurrency * 4096 * 1408 * 5)) == -(-TOKENS // 1408)
    assert round(last.available_kv_bytes / (last.max_concurrency * 4096 * 1312)) == -(-TOKENS // 1312) + 4 * 2


def test_who_keeps_them() -> None:
    every = answer("0.27.1").max_concurrency
    assert answer("0.26.0").max_concurrency == every
    assert answer("0.25.1", "--enable-prefix-caching").max_concurrency == every
    for last in (
        answer("0.25.1"),
        answer("0.27.1", "--mamba-cache-mode=align"),
        answer("0.27.1", "--no-enable-prefix-caching"),
        answer("0.28.0"),
    ):
        assert last.max_concurrency > 4 * every
