"""Facts of published models, in configs made here: dimensions, parameters and KV bytes a token, family by family."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.errors import UnsupportedError
from farspan.models.config import spec_from_config
from farspan.models.families.table import FAMILIES
from farspan.models.families.wrappers import WRAPPERS
from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.models.weights import total_parameters

_COMMON: dict[str, Any] = {
    "dtype": "bfloat16",
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def _config(architecture: str, dimensions: str, **fields: Any) -> dict[str, Any]:
    """A config from "hidden/layers/heads/KV heads/width/vocabulary"."""
    hidden, layers, heads, kv_heads, width, vocab = (int(part) for part in dimensions.split("/"))
    return {
        **_COMMON,
        "architectures": [architecture],
        "model_type": "made_here",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": width,
        "vocab_size": vocab,
        **fields,
    }


def _moe(experts: int, top_k: int, width: int, **fields: Any) -> dict[str, Any]:
    return {"num_experts": experts, "num_experts_per_tok": top_k, "moe_intermediate_size": width, **fields}


_LATENT = {
    "kv_lora_rank": 512,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
}
_SLIDING = {"sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"] * 13}

# architecture, dimensions, other fields; published parameters; bf16 KV bytes a token of all attention layers.
FACTS = {
    "llama-3.2-1b": (
        _config("LlamaForCausalLM", "2048/16/32/8/8192/128256", head_dim=64, tie_word_embeddings=True),
        1_235_814_400,
        32_768,
    ),
    "qwen2.5-3b": (
        _config("Qwen2ForCausalLM", "2048/36/16/2/11008/151936", tie_word_embeddings=True),
        3_085_938_688,
        36_864,
    ),
    "gemma-2-2b": (
        _config(
            "Gemma2ForCausalLM", "2304/26/8/4/9216/256000", head_dim=256, tie_word_embeddings=True, **_SLIDING
        ),
        2_614_341_888,
        106_496,
    ),
    "phi-2": (_config("PhiForCausalLM", "2560/32/32/32/10240/51200"), 2_779_683_840, 327_680),
    "phi-4-mini": (
        _config("Phi3ForCausalLM", "3072/32/24/8/8192/200064", tie_word_embeddings=True),
        3_836_021_760,
        131_072,
    ),
    "olmo-2-13b": (_config("Olmo2ForCausalLM", "5120/40/40/40/13824/100352"), 13_716_198_400, 819_200),
    "glm-4-9b-0414": (
        _config("Glm4ForCausalLM", "4096/40/32/2/13696/151552", attention_bias=True),
        9_400_279_040,
        40_960,
    ),
    "command-r7b": (
        _config(
            "Cohere2ForCausalLM", "4096/32/32/8/14336/256000", tie_word_embeddings=True, sliding_window=4096
        ),
        8_028_033_024,
        131_072,
    ),
    "smollm3-3b": (
        _config("SmolLM3ForCausalLM", "2048/36/16/4/11008/128256", tie_word_embeddings=True),
        3_075_098_624,
        73_728,
    ),
    "internlm2-7b": (
        _config("InternLM2ForCausalLM", "4096/32/32/8/14336/92544", bias=False),
        7_737_708_544,
        131_072,
    ),
    "falcon-7b": (
        {
            **_config("FalconForCausalLM", "4544/32/71/71/18176/65024"),
            "multi_query": True,
            "new_decoder_architecture": False,
            "parallel_attn": True,
            "bias": False,
            "tie_word_embeddings": True,
        },
        6_921_720_704,
        8_192,
    ),
    "gpt2": (
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "vocab_size": 50257,
        },
        124_439_808,
        36_864,
    ),
    "mixtral-8x7b": (
        _config("MixtralForCausalLM", "4096/32/32/8/14336/32000", num_local_experts=8, num_experts_per_tok=2),
        46_702_792_704,
        131_072,
    ),
    "qwen3-30b-a3b": (
        _config("Qwen3MoeForCausalLM", "2048/48/32/4/6144/151936", head_dim=128, **_moe(128, 8, 768)),
        30_532_122_624,
        98_304,
    ),
    "glm-4.5-air": (
        _config(
            "Glm4MoeForCausalLM",
            "4096/46/96/8/10944/151552",
            head_dim=128,
            attention_bias=True,
            first_k_dense_replace=1,
            n_routed_experts=128,
            n_shared_experts=1,
            num_experts_per_tok=8,
            moe_intermediate_size=1408,
        ),
        106_852_245_504,
        188_416,
    ),
    "glm-4.7-flash": (
        _config(
            "Glm4MoeLiteForCausalLM",
            "2048/47/20/20/10240/154880",
            first_k_dense_replace=1,
            n_routed_experts=64,
            n_shared_experts=1,
            num_experts_per_tok=4,
            moe_intermediate_size=1536,
            **_LATENT,
        ),
        29_943_390_976,
        54_144,
    ),
    "ernie-4.5-21b-a3b": (
        _config(
            "Ernie4_5_MoeForCausalLM",
            "2560/28/20/4/12288/103424",
            tie_word_embeddings=True,
            moe_num_experts=64,
            moe_k=6,
            moe_intermediate_size=1536,
            moe_num_shared_experts=2,
            moe_layer_start_index=1,
            moe_layer_end_index=27,
        ),
        21_825_437_888,
        57_344,
    ),
    "qwen3-next-80b-a3b": (
        _config(
            "Qwen3NextForCausalLM",
            "2048/48/16/2/5120/151936",
            head_dim=256,
            full_attention_interval=4,
            linear_conv_kernel_dim=4,
            linear_key_head_dim=128,
            linear_num_key_heads=16,
            linear_num_value_heads=32,
            linear_value_head_dim=128,
            shared_expert_intermediate_size=512,
            **_moe(512, 10, 512),
        ),
        79_674_391_296,
        24_576,
    ),
    "nemotron-3-nano-30b-a3b": (
        {
            **_config("NemotronHForCausalLM", "2688/52/32/2/1856/131072", head_dim=128),
            "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
            "mamba_num_heads": 64,
            "mamba_head_dim": 64,
            "ssm_state_size": 128,
            "n_groups": 8,
            "n_routed_experts": 128,
            "num_experts_per_tok": 6,
            "moe_intermediate_size": 1856,
            "moe_shared_expert_intermediate_size": 3712,
        },
        31_577_937_344,
        6_144,
    ),
    "jamba-mini": (
        _config(
            "JambaForCausalLM",
            "4096/32/32/8/14336/65536",
            attn_layer_period=8,
            attn_layer_offset=4,
            expert_layer_period=2,
            expert_layer_offset=1,
            mamba_expand=2,
            mamba_d_state=16,
            mamba_d_conv=4,
            mamba_dt_rank=256,
            num_experts=16,
            num_experts_per_tok=2,
        ),
        51_570_323_328,
        16_384,
    ),
}


def _attention_bytes(spec: ModelSpec) -> int:
    return spec.kv_bytes_per_token(KvDtype.BFLOAT16)


@pytest.mark.parametrize("name", FACTS)
def test_parameters_and_kv_are_the_published_ones(name: str) -> None:
    config, parameters, kv_bytes = FACTS[name]
    spec = spec_from_config(config, name)
    assert total_parameters(spec).total == pytest.approx(parameters, rel=2e-4)
    assert _attention_bytes(spec) == kv_bytes


def test_recurrent_layers_keep_a_state_and_no_tokens() -> None:
    config, _, _ = FACTS["nemotron-3-nano-30b-a3b"]
    spec = spec_from_config(config, "nano")
    kinds = [layer.attention for layer in spec.layers]
    assert len(kinds) == 52
    assert kinds.count(AttentionKind.FULL) == 6
    assert kinds.count(AttentionKind.LINEAR) == config["hybrid_override_pattern"].count("M")
    assert kinds.count(AttentionKind.NONE) == config["hybrid_override_pattern"].count("E")
    (conv, recurrent) = next(spec.layers_of(AttentionKind.LINEAR)).states
    # Convolution over the inner width and both state groups; one matrix a head.
    assert conv.shape == (64 * 64 + 2 * 8 * 128, 3)
    assert recurrent.shape == (64, 64, 128)
    assert spec.kv_bytes(1000, KvDtype.BFLOAT16) == 6_144 * 1000 + sum(
        layer.state_bytes() for layer in spec.layers
    )


def test_a_window_longer_than_the_model_reaches_is_none() -> None:
    config = {**FACTS["phi-4-mini"][0], "sliding_window": 262_144}
    assert {layer.window for layer in spec_from_config(config, "phi").layers} == {None}
    config["sliding_window"] = 2047
    assert {layer.window for layer in spec_from_config(config, "phi").layers} == {2047}


def test_indexers_are_where_the_config_says() -> None:
    config = {
        **FACTS["glm-4.7-flash"][0],
        "architectures": ["GlmMoeDsaForCausalLM"],
        "index_n_heads": 32,
        "index_head_dim": 128,
        "index_topk": 2048,
        "indexer_types": ["full", "shared"] * 23 + ["full"],
    }
    spec = spec_from_config(config, "dsa")
    assert _attention_bytes(spec) == 54_144 + 24 * 132


def test_what_is_unknown_is_named_all_at_once_and_one_by_one_accepted() -> None:
    config = {**FACTS["qwen2.5-3b"][0], "rotor_width": 7, "state_kinds": [1, 2]}
    with pytest.raises(
        UnsupportedError, match=r"fields rotor_width, state_kinds.*--ignore-field rotor_width"
    ):
        spec_from_config(config, "odd")
    with pytest.raises(UnsupportedError, match=r"field state_kinds is not one"):
        spec_from_config(config, "odd", ignore_fields=["rotor_width"])
    spec = spec_from_config(config, "odd", ignore_fields=["rotor_width", "state_kinds"])
    assert total_parameters(spec).total == 3_085_938_688


@pytest.mark.parametrize(
    "fields",
    [
        {"use_mrope": False},
        {"unsloth_fixed": True, "unsloth_version": "2024.9"},
        {"transformers.js_config": {"dtype": "q4"}},
        {"rope_interleaved": False},
        {"attn_type_list": [1, 1, 1]},
        {"some_new_token_id": 3, "residual_dropout": 0.1, "z_loss_coef": 1e-4},
    ],
)
def test_what_cannot_change_memory_is_passed_over(fields: dict[str, Any]) -> None:
    config = {**FACTS["qwen2.5-3b"][0], **fields}
    assert spec_from_config(config, "noisy").notes == ()


def test_an_architecture_without_a_row_is_read_and_labelled() -> None:
    config = {**FACTS["qwen3-30b-a3b"][0], "architectures": ["SDARMoeForCausalLM"], "flavour": 3}
    spec = spec_from_config(config, "sdar")
    assert spec.notes[0].startswith("assumed: farspan has no table for SDARMoeForCausalLM")
    assert spec.notes[-1] == "assumed: these fields were not read: flavour"
    assert _attention_bytes(spec) == 98_304
    with pytest.raises(UnsupportedError, match=r"field kv_flavour"):
        spec_from_config({**config, "kv_flavour": 3}, "sdar")


def _vision(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "num_hidden_layers": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        **fields,
    }


def test_a_wrapper_counts_its_encoder_and_reads_its_text_config() -> None:
    text = _config("", "5120/40/32/8/32768/131072", head_dim=128)
    del text["architectures"]
    text["model_type"] = "ministral3"
    config = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "tie_word_embeddings": False,
        "spatial_merge_size": 2,
        "text_config": text,
        "vision_config": _vision("pixtral", num_attention_heads=16, image_size=1540, patch_size=14),
    }
    spec = spec_from_config(config, "devstral")
    assert total_parameters(spec).total == 24_011_361_280  # as published for Devstral Small 2
    assert spec.has_vision
    assert _attention_bytes(spec) == 163_840


def test_every_row_names_dimensions_and_switches_that_exist() -> None:
    assert len(FAMILIES) > 100
    assert len(WRAPPERS) > 25
    for family in FAMILIES.values():
        assert family.windows in ("none", "all", "some", "pattern")
        assert family.qk_norm in ("", "head", "full")
        assert family.gate in ("", "wide", "head")
        assert family.linear in ("", "gdn", "kda", "mamba1", "mamba2", "lightning", "conv")
    for wrapper in WRAPPERS.values():
        assert not wrapper.text or wrapper.text in FAMILIES
