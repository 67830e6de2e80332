"""How checkpoints say what their weights and KV are kept in, format by format."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.errors import UnsupportedError
from farspan.models.config import spec_from_config
from farspan.models.spec import ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import rank_weight_bytes, total_parameters

_DENSE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
}
_MOE: dict[str, Any] = {
    **_DENSE,
    "architectures": ["Qwen3MoeForCausalLM"],
    "head_dim": 128,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 2048,
}
_ATTENTION_WEIGHTS = 4096 * (32 + 8 + 8) * 128 + 32 * 128 * 4096
_LAYER_WEIGHTS = _ATTENTION_WEIGHTS + 3 * 4096 * 14336


def _read(base: dict[str, Any], **quantization: Any) -> ModelSpec:
    return spec_from_config({**base, "quantization_config": quantization}, "made")


def _bits(spec: ModelSpec) -> float:
    """Bits a weight of the layers' projections, scales included."""
    parts = (WeightPart.ATTENTION, WeightPart.DENSE_MLP)
    held = rank_weight_bytes(spec).by_part
    return sum(held[part] for part in parts) * 8 / (4 * _LAYER_WEIGHTS)


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, 4 + 8 / 16),
        (
            {
                "quant_method": "modelopt",
                "quantization": {"quant_algo": "MXFP8", "exclude_modules": ["lm_head"]},
            },
            8 + 8 / 32,
        ),
        (
            {
                "quant_method": "quark",
                "global_quant_config": {"weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}},
                "exclude": ["lm_head"],
            },
            4 + 8 / 32,
        ),
        (
            {
                "quant_method": "torchao",
                "quant_type": {"default": {"_type": "Float8DynamicActivationFloat8WeightConfig"}},
            },
            8,
        ),
        (
            {
                "quant_method": "torchao",
                "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}},
            },
            4.5,
        ),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "data_type": "int"}, 4 + 20 / 128),
        (
            {
                "quant_method": "gptq",
                "bits": 4,
                "group_size": 128,
                "exllama_config": {"version": 1},
                "cache_block_outputs": True,
            },
            4 + 20 / 128,
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            4 + 8 / 64,
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "w8a8_int8"}, 8),
        ({"quant_method": "w8a8_fp8"}, 8),
        ({"quant_method": "blockwise_int8", "weight_block_size": [128, 128]}, 8 + 32 / 128**2),
        ({"quant_method": "moe_wna16", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "inc", "bits": 4, "group_size": 128}, 4 + 20 / 128),
    ],
)
def test_bits_a_weight(quantization: dict[str, Any], bits: float) -> None:
    spec = _read(_DENSE, **quantization)
    assert _bits(spec) == pytest.approx(bits, rel=1e-6)
    # Quantizing changes no count, and leaves the embedding and the head in the model's dtype.
    assert total_parameters(spec).total == total_parameters(spec_from_config(_DENSE, "made")).total
    assert rank_weight_bytes(spec).by_part[WeightPart.LM_HEAD] == 32000 * 4096 * 2


def test_w4afp8_keeps_experts_in_four_bits_and_the_rest_in_fp8() -> None:
    spec = _read(_MOE, quant_method="w4afp8", weight_block_size=[128, 128], group_size=128)
    held = rank_weight_bytes(spec).by_part
    experts = 4 * 16 * 3 * 2048 * 4096
    assert held[WeightPart.EXPERTS] == experts * (4 + 16 / 128) / 8
    plain = rank_weight_bytes(_read(_MOE, quant_method="experts_int8")).by_part
    assert plain[WeightPart.EXPERTS] == experts
    assert plain[WeightPart.ATTENTION] > 1.9 * held[WeightPart.ATTENTION]


def test_groups_of_compressed_tensors_reach_what_they_name() -> None:
    weights = {"num_bits": 8, "strategy": "channel", "type": "float", "symmetric": True}
    packed = {"num_bits": 4, "strategy": "group", "group_size": 128, "type": "int", "symmetric": True}
    spec = _read(
        _DENSE,
        quant_method="compressed-tensors",
        config_groups={
            "group_0": {"targets": ["re:.*self_attn.*"], "weights": weights},
            "group_1": {"targets": ["Linear"], "weights": packed},
        },
        ignore=["lm_head", "re:.*down_proj"],
    )
    held = rank_weight_bytes(spec).by_part
    assert held[WeightPart.ATTENTION] == 4 * _ATTENTION_WEIGHTS
    gate_and_up = 4 * 2 * 4096 * 14336
    assert held[WeightPart.DENSE_MLP] == gate_and_up * (4 + 16 / 128) / 8 + 4 * 4096 * 14336 * 2


def test_layers_may_be_kept_differently_and_one_expert_stands_for_all() -> None:
    layers = {f"model.layers.{index}.mlp.experts.0.gate_proj": {"quant_algo": "NVFP4"} for index in range(2)}
    layers |= {f"model.layers.{index}.self_attn.q_proj": {"quant_algo": "FP8"} for index in range(4)}
    spec = _read(_MOE, quant_method="modelopt", quant_algo="MIXED_PRECISION", quantized_layers=layers)
    experts = 16 * 3 * 2048 * 4096
    held = rank_weight_bytes(spec).by_part[WeightPart.EXPERTS]
    assert held == 2 * experts * 4.5 / 8 + 2 * experts * 2
    query = [weight for weight in spec.weights if weight.name.endswith("q_proj")]
    assert [weight.quant.bits for weight in query if weight.quant] == [8]


def test_names_of_other_wrappers_and_blocks_mean_the_same() -> None:
    names = ["language_model.model.layers.0.block_sparse_moe.experts", "mtp.layers.1.mlp.experts"]
    spec = _read(_MOE, quant_method="fp8", weight_block_size=[128, 128], modules_to_not_convert=names)
    kept = [
        weight.copies for weight in spec.weights if weight.part is WeightPart.EXPERTS and not weight.quantized
    ]
    assert kept == [1, 1]  # both projections of layer 0; the draft layer's name reaches no other


@pytest.mark.parametrize(
    ("quantization", "fp8"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, True),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": None}, False),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "NVFP4",
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            True,
        ),
        (
            {"quant_method": "modelopt", "quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}},
            True,
        ),
        ({"quant_method": "fp8"}, False),
    ],
)
def test_a_checkpoint_may_ask_for_fp8_kv(quantization: dict[str, Any], fp8: bool) -> None:
    assert _read(_DENSE, **quantization).kv_fp8 is fp8


def test_experts_of_another_type_beside_fp8() -> None:
    experts = {
        "quant_method": "fp8",
        "quant_algo": "MIXED_PRECISION",
        "moe_quant_algo": "NVFP4",
        "quantized_layers": {"layers.0.ffn.experts": {"quant_algo": "NVFP4"}},
    }
    spec = _read(_MOE, **experts)
    formats = {weight.part: weight.quant.bits for weight in spec.weights if weight.quant}
    assert formats == {WeightPart.ATTENTION: 8, WeightPart.EXPERTS: 4}


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ({"quant_method": "squeezellm"}, "quant_method is 'squeezellm'"),
        ({"quant_method": "modelopt", "quant_algo": "FP3"}, "quant_algo is 'FP3'"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp5"}}}, "weights in 'fp5'"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Ternary"}}},
            "quant_type is 'Ternary'",
        ),
    ],
)
def test_what_is_not_known_is_named(quantization: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        _read(_DENSE, **quantization)
