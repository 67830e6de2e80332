"""Ranks of recurrent models, of models inside others, and in the form that each engine reads."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.engines.registry import get_engine
from farspan.errors import InputError, UnsupportedError
from farspan.models import catalog
from farspan.models.config import spec_from_config
from farspan.models.shard.division import Division
from farspan.models.shard.rank_config import RankShard, shard_config
from farspan.models.spec import AttentionKind, KvDtype
from farspan.models.tensors import WeightPart
from farspan.models.weights import rank_weight_bytes

CATALOG = {entry.name: entry.config() for entry in catalog.entries()}
# Nemotron 3 Nano's dimensions, six of its layers.
NEMOTRON_H: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "vocab_size": 131_072, "hidden_size": 2688,
    "num_hidden_layers": 6, "hybrid_override_pattern": "MEM*-M", "num_attention_heads": 32, "num_key_value_heads": 2,
    "head_dim": 128, "intermediate_size": 1856, "mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8,
    "ssm_state_size": 128, "conv_kernel": 4, "expand": 2, "use_conv_bias": True, "use_bias": False,
    "mamba_ssm_cache_dtype": "float32", "n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 1,
    "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712, "moe_latent_size": 512,
    "max_position_embeddings": 262_144, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "attention_bias": False, "mlp_bias": False, "layer_norm_epsilon": 1e-5,
}  # fmt: skip
# Falcon-H1 1.5B Deep's Mamba: one group, its width said by itself.
FALCON_H1: dict[str, Any] = {
    "architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1", "vocab_size": 65_536, "hidden_size": 1280,
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 3072,
    "head_dim": 128, "mamba_d_ssm": 1536, "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_n_groups": 1,
    "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False,
    "mamba_rms_norm": False, "max_position_embeddings": 131_072, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "rope_theta": 1e11,
}  # fmt: skip
# Granite 4.0 H Small's, four layers of each kind.
GRANITE_H: dict[str, Any] = {
    "architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid", "vocab_size": 100_352,
    "hidden_size": 4096, "num_hidden_layers": 4, "layer_types": ["mamba", "mamba", "attention", "mamba"],
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 768, "shared_intermediate_size": 1536,
    "num_local_experts": 72, "num_experts_per_tok": 10, "mamba_n_heads": 128, "mamba_d_head": 64, "mamba_n_groups": 1,
    "mamba_d_state": 128, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False,
    "max_position_embeddings": 131_072, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "attention_bias": False,
}  # fmt: skip
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 152_064, "hidden_size": 3584,
    "num_hidden_layers": 4, "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18_944,
    "max_position_embeddings": 32_768, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rope_theta": 1e6,
    "use_sliding_window": False, "sliding_window": 131_072, "max_window_layers": 28,
}  # fmt: skip
# Qwen2-VL as published: the decoder's fields at the top, the encoder's in a section beside them.
QWEN2_VL = {
    **QWEN2,
    "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "image_token_id": 151_655,
    "vision_config": {
        "depth": 4, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3, "hidden_size": 3584,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}  # fmt: skip
INTERNVL: dict[str, Any] = {
    "architectures": ["InternVLForConditionalGeneration"], "model_type": "internvl", "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "text_config": {**QWEN2, "architectures": None},
    "vision_config": {
        "model_type": "internvl_vision", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16,
        "intermediate_size": 4096, "image_size": [448, 448], "patch_size": [14, 14],
    },
}  # fmt: skip


def _shard(
    config: dict[str, Any], engine: str = "vllm", version: str = "0.33.0", **division: Any
) -> RankShard:
    form = get_engine(engine).config_form(config["architectures"][0], version)
    shard = shard_config(config, "model", Division(**division), form=form)
    again = spec_from_config(shard.config, "model")
    assert (again.layers, again.weights) == (shard.spec.layers, shard.spec.weights)
    return shard


def _decoder(shard: RankShard, tp: int) -> int:
    parts = rank_weight_bytes(shard.whole, tp).by_part
    return sum(size for part, size in parts.items() if part not in (WeightPart.VISION, WeightPart.PROJECTOR))


def _state(shard: RankShard) -> int:
    return next(layer.state_bytes() for layer in shard.spec.layers if layer.states)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(("tp", "keys"), [(2, 1), (4, 1), (8, 1)])
def test_a_rank_of_nemotron_h_has_its_heads_and_groups(engine: str, tp: int, keys: int) -> None:
    shard = _shard(NEMOTRON_H, engine, "0.5.16" if engine == "sglang" else "0.33.0", tp=tp)
    fields = shard.config
    assert (fields["mamba_num_heads"], fields["n_groups"]) == (64 // tp, 8 // tp)
    assert (fields["num_key_value_heads"], fields["moe_latent_size"]) == (keys, 512)
    # conv: 64 heads of 64 and 8 groups of a key and a query of 128, three columns in bf16; the state in float32.
    conv = (64 * 64 + 2 * 8 * 128) // tp * 3 * 2
    assert _state(shard) == conv + 64 // tp * 64 * 128 * 4
    assert shard.weight_bytes == _decoder(shard, tp)
    for context in (1000, 100_000):
        assert shard.spec.kv_bytes(context) == shard.whole.kv_bytes(context, KvDtype.AUTO, tp)


def test_the_latent_of_experts_is_whole_on_a_rank() -> None:
    shard = _shard(NEMOTRON_H, tp=4)
    latents = {tensor.name: tensor.shape for tensor in shard.spec.weights if "latent_proj" in tensor.name}
    assert set(latents.values()) == {(512, 2688), (2688, 512)}


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_a_lone_group_of_mamba_heads_is_on_every_rank(tp: int) -> None:
    shard = _shard(FALCON_H1, tp=tp)
    fields = shard.config
    assert (fields["mamba_d_ssm"], fields["mamba_n_heads"], fields["mamba_n_groups"]) == (
        1536 // tp,
        24 // tp,
        1,
    )
    conv = (1536 // tp + 2 * 256) * 3 * 2
    assert _state(shard) == conv + 24 // tp * 64 * 256 * 2
    # in_proj: gate, values and heads divided, the group's key and query not.
    rows = 2 * 1536 // tp + 24 // tp + 2 * 256
    held = sum(
        tensor.count // tensor.copies
        for tensor in shard.spec.weights
        if tensor.name.endswith("mamba.in_proj")
    )
    assert held == rows * 1280
    assert shard.weight_bytes == _decoder(shard, tp)


def test_groups_that_ranks_do_not_divide_are_refused_as_the_engines_do() -> None:
    two = {**FALCON_H1, "mamba_n_groups": 2}
    spec_from_config(two, "falcon").check_tp(2)
    with pytest.raises(InputError, match="4 does not divide the 2 groups of Mamba heads") as caught:
        spec_from_config(two, "falcon").check_tp(4)
    assert caught.value.fix == "choose one of 1, 2"
    with pytest.raises(UnsupportedError, match="mamba_n_groups is 2, which 4 ranks do not divide"):
        _shard(two, tp=4)


def test_widths_that_engines_compute_are_refused_in_one_line() -> None:
    whole = shard_config(GRANITE_H, "granite", Division(2))
    assert (whole.config["mamba_expand"], whole.config["mamba_n_heads"]) == (1, 64)
    with pytest.raises(UnsupportedError, match="width is mamba_expand, 2, times the hidden size") as caught:
        shard_config(GRANITE_H, "granite", Division(4))
    assert caught.value.fix == "use --tp 2"
    for engine, version in (("vllm", "0.33.0"), ("sglang", "0.5.16")):
        with pytest.raises(
            UnsupportedError, match="a head of GraniteMoeHybridForCausalLM to be the hidden size"
        ):
            _shard(GRANITE_H, engine, version, tp=2)
    lfm2 = {
        "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "vocab_size": 65_536, "hidden_size": 2048,
        "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 8192, "block_auto_adjust_ff_dim": False, "conv_L_cache": 3,
        "max_position_embeddings": 128_000, "torch_dtype": "bfloat16",
    }  # fmt: skip
    with pytest.raises(UnsupportedError, match="short convolutions are as wide as their input"):
        _shard(lfm2, tp=2)


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_a_rank_of_kimi_k3_is_its_decoder(tp: int) -> None:
    config = CATALOG["kimi-k3"]
    shard = _shard(config, tp=tp)
    assert (shard.config["architectures"], shard.config["model_type"]) == (
        ["KimiLinearForCausalLM"],
        "kimi_linear",
    )
    assert shard.config["linear_attn_config"]["num_heads"] == shard.config["num_attention_heads"] == 96 // tp
    assert (
        shard.config["head_dim"] == 74
    )  # 7168 over 96 heads, which its config class would compute from fewer
    assert shard.config["routed_expert_hidden_size"] == 3584
    # Three convolutions of 128 a head over four columns in bf16, and a square of 128 a head in float32.
    assert _state(shard) == 96 // tp * (3 * 128 * 3 * 2 + 128 * 128 * 4)
    assert shard.weight_bytes == _decoder(shard, tp)
    assert [layer.attention for layer in shard.spec.layers].count(AttentionKind.MLA) == 24
    sglang = _shard(config, "sglang", "0.5.23", tp=tp)
    assert sglang.config["architectures"] == ["KimiK3LinearForCausalLM"]
    assert sglang.spec.weights == shard.spec.weights


def test_latents_are_no_copied_heads() -> None:
    for name in ("deepseek-v4-flash", "deepseek-v3"):
        assert not any(
            "KV head" in line for line in shard_config(CATALOG[name], name, Division(8)).differences
        )


def test_a_stage_of_kimi_k3_has_its_own_recurrent_layers() -> None:
    shard = _shard(CATALOG["kimi-k3"], tp=8, layers=range(47))
    section = shard.config["linear_attn_config"]
    assert sorted(section["kda_layers"] + section["full_attn_layers"]) == list(range(1, 48))
    assert section["full_attn_layers"][-1] == 44


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_a_rank_of_minimax_m3_has_its_share_of_the_indexer(tp: int) -> None:
    shard = _shard(CATALOG["minimax-m3"], tp=tp)
    fields = shard.config
    assert (fields["architectures"], fields["model_type"]) == (
        ["MiniMaxM3SparseForCausalLM"],
        "minimax_m3_vl",
    )
    text = fields["text_config"]
    assert (text["num_attention_heads"], text["num_key_value_heads"]) == (64 // tp, max(1, 4 // tp))
    assert text["sparse_attention_config"]["sparse_num_index_heads"] == max(1, 4 // tp)
    query = next(tensor for tensor in shard.spec.weights if tensor.name.endswith("indexer.q_proj"))
    assert query.shape == (max(1, 4 // tp) * 128, 6144)
    padding = 2 * (-(-200_064 // tp // 64) * 64 - -(-200_064 // tp)) * 6144 * 2
    assert shard.weight_bytes == _decoder(shard, tp) + padding
    sglang = _shard(CATALOG["minimax-m3"], "sglang", "0.5.16", tp=tp)
    assert sglang.config["num_attention_heads"] == 64 // tp
    assert (sglang.config["architectures"], sglang.spec.weights) == (
        fields["architectures"],
        shard.spec.weights,
    )


def test_a_head_size_that_an_engine_computes_is_said_by_an_equal() -> None:
    shard = _shard(QWEN2, tp=4)
    assert (shard.config["architectures"], shard.config["head_dim"]) == (["InternLM3ForCausalLM"], 128)
    assert (shard.config["qkv_bias"], shard.config["bias"]) == (True, False)
    assert any("its equal: vLLM takes a head of Qwen2ForCausalLM" in line for line in shard.differences)
    assert shard.weight_bytes == _decoder(shard, 4)
    sglang = _shard(QWEN2, "sglang", "0.5.16", tp=4)
    assert sglang.config["architectures"] == ["Qwen2ForCausalLM"]
    assert sglang.weight_bytes == shard.weight_bytes
    chunked = {**QWEN2, "dual_chunk_attention_config": {"chunk_size": 262_144}}
    with pytest.raises(UnsupportedError, match="4 times too large on a rank alone"):
        _shard(chunked, tp=4)
    assert _shard(chunked, tp=1).config["architectures"] == ["Qwen2ForCausalLM"]


def test_a_head_size_that_an_engine_computes_is_refused_without_an_equal() -> None:
    mixtral = CATALOG["mixtral-8x7b-v0.1"]
    _shard(mixtral, tp=8)
    with pytest.raises(
        UnsupportedError, match="SGLang takes a head of MixtralForCausalLM to be the hidden size"
    ):
        _shard(mixtral, "sglang", "0.5.16", tp=8)


def test_a_head_size_is_computed_by_some_versions_only() -> None:
    fixed = get_engine("vllm").config_form("Olmo3ForCausalLM", "0.28.0").fixed_head_sizes
    assert "Olmo3ForCausalLM" in fixed
    assert "Olmo3ForCausalLM" not in get_engine("vllm").config_form("", "0.33.0").fixed_head_sizes
    assert get_engine("vllm").config_form("", "").fixed_head_sizes < fixed


def test_fields_beside_an_encoder_become_a_decoder_of_text() -> None:
    shard = _shard(QWEN2_VL, "sglang", "0.5.16", tp=2)
    assert (shard.config["architectures"], shard.config["model_type"]) == (["Qwen2ForCausalLM"], "qwen2")
    assert "vision_config" not in shard.config
    assert shard.config["rope_scaling"] == {
        "type": "default"
    }  # a decoder of text knows no positions in pictures
    assert any("encoders" in line for line in shard.differences)
    assert shard.weight_bytes == _decoder(shard, 2)


def test_what_the_whole_says_of_tying_counts_for_its_decoder() -> None:
    shard = _shard(INTERNVL, tp=2)
    assert shard.config["tie_word_embeddings"]
    assert not any(tensor.part is WeightPart.LM_HEAD for tensor in shard.spec.weights)


def test_positions_in_pictures_stay_where_the_decoder_knows_them() -> None:
    name = "qwen3.5-27b"
    section = next(iter(CATALOG[name][key] for key in ("text_config",)))
    assert "mrope_section" in section["rope_parameters"]
    assert "mrope_section" in _shard(CATALOG[name], tp=2).config["rope_parameters"]
