"""Both engines plan the layer kinds that models have: recurrent ones, layers without attention, FP8 KV by request."""

from __future__ import annotations

from typing import Any

import pytest

from farspan import plan
from farspan.engines.vllm.dropped import has_no_loader, last_version_with
from farspan.models.config import spec_from_config
from farspan.models.spec import ModelSpec
from farspan.planner.request import EnginePlan

_NANO: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "dtype": "bfloat16",
    "hidden_size": 2688,
    "num_hidden_layers": 12,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "intermediate_size": 1856,
    "vocab_size": 131072,
    "max_position_embeddings": 262144,
    "hybrid_override_pattern": "MEM*EMEM*-ME",
    "mamba_num_heads": 64,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
    "n_routed_experts": 128,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
}
_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def _planned(config: dict[str, Any], engine: str, **options: Any) -> EnginePlan:
    spec: ModelSpec = spec_from_config(config, "made")
    answer = plan(spec, gpus="2xH100", engine=engine, context="100k", **options)
    (planned,) = answer.plans  # type: ignore[union-attr]
    return planned


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_layers_that_keep_nothing_take_no_pages(engine: str) -> None:
    hybrid = _planned(_NANO, engine)
    assert hybrid.fits
    # The same without its MLP and expert layers keeps as much a token.
    kept = [kind for kind in _NANO["hybrid_override_pattern"] if kind in "M*"]
    bare = _planned(
        {**_NANO, "hybrid_override_pattern": "".join(kept), "num_hidden_layers": len(kept)}, engine
    )
    assert hybrid.capacity_tokens < bare.capacity_tokens  # its weights take what the bare one keeps tokens in
    per_token = hybrid.available_kv_bytes / hybrid.capacity_tokens
    assert per_token == pytest.approx(bare.available_kv_bytes / bare.capacity_tokens, rel=0.02)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_checkpoint_with_fp8_kv_holds_twice_as_many_tokens(engine: str) -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    plain = _planned({**_LLAMA, "quantization_config": quantization}, engine)
    asked = {**quantization, "kv_cache_quant_algo": "FP8"}
    fp8 = _planned({**_LLAMA, "quantization_config": asked}, engine)
    assert fp8.capacity_tokens == pytest.approx(2 * plain.capacity_tokens, rel=0.01)
    own = _planned({**_LLAMA, "quantization_config": asked}, engine, kv_dtype="bf16")
    assert own.capacity_tokens == pytest.approx(plain.capacity_tokens, rel=0.01)


def test_what_vllm_dropped_is_said_to_be_dropped() -> None:
    config = {**_LLAMA, "architectures": ["InternLMForCausalLM"], "bias": True}
    gone = _planned(config, "vllm")
    assert not gone.fits
    assert "has dropped InternLMForCausalLM; 0.23.0 was the last" in gone.reason
    assert last_version_with("InternLMForCausalLM", "0.20.0") == ""
    assert last_version_with("LlamaForCausalLM", "0.33.0") == ""


def test_a_format_without_a_loader_is_refused_where_the_engine_has_none() -> None:
    config = {**_LLAMA, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    assert "no loader for bitsandbytes" in _planned(config, "vllm").reason
    assert _planned(config, "sglang").fits
    assert has_no_loader("bitsandbytes", "0.33.0")
    assert not has_no_loader("awq", "0.33.0")


@pytest.mark.parametrize(
    ("engine", "flag"), [("vllm", "--hf-overrides"), ("sglang", "--json-model-override-args")]
)
def test_the_engine_is_told_of_a_longer_rope(engine: str, flag: str) -> None:
    answer = plan("qwen3-8b", gpus="2xH100", engine=engine, context="130k", rope_scaling="yarn:4")
    (planned,) = answer.plans  # type: ignore[union-attr]
    assert planned.fits
    position = planned.flags.index(flag)
    assert '"rope_type":"yarn"' in planned.flags[position + 1]
