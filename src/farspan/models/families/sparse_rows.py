"""Rows of families with many experts, latent attention or recurrent layers."""

from __future__ import annotations

from dataclasses import replace

from farspan.models.families.declaration import Experts, Family
from farspan.models.families.row_parts import (
    BAILING,
    COHERE,
    DEEPSEEK,
    GRANITE_MOE,
    GRANITE_SHARED,
    LFM2,
    MAMBA,
    MINIMAX_01,
    MLA_MOE,
    PHI3,
    STEP3P5,
    USE_BIAS,
)

SPARSE: dict[str, Family] = {
    # DeepSeek's layout: one latent a token, many small experts
    "DeepseekForCausalLM": Family(experts=Experts("first_dense", ("moe_intermediate_size",), shared="count")),
    "DeepseekV2ForCausalLM": MLA_MOE,
    "DeepseekV3ForCausalLM": MLA_MOE,
    "DeepseekV32ForCausalLM": MLA_MOE,
    "GlmMoeDsaForCausalLM": MLA_MOE,
    "Mistral4ForCausalLM": MLA_MOE,
    "MistralLarge3ForCausalLM": MLA_MOE,
    "AXK1ForCausalLM": replace(MLA_MOE, extra=(("post_mlp_layernorm", ("hidden",)),)),
    "Dots1ForCausalLM": Family(qk_norm="head", experts=DEEPSEEK),
    "HYV4ForCausalLM": replace(
        MLA_MOE, gate="wide", sinks=True, code="hyper_connections", expects=(), harmless=("attention_bias",)
    ),
    "Glm5NextForCausalLM": replace(
        MLA_MOE, linear="kda", code="hyper_connections", harmless=("index_kpool_always_select_tail",)
    ),
    "KimiLinearForCausalLM": replace(MLA_MOE, linear="kda", harmless=("mla_use_nope",)),
    "BailingHybridForCausalLM": replace(
        MLA_MOE, linear="kda", gate="head", harmless=("short_conv_kernel_size", "layer_group_size")
    ),
    # Experts of other layouts
    "OlmoeForCausalLM": Family(qk_norm="full", experts=Experts(width=("intermediate_size",))),
    "FlexOlmoForCausalLM": Family(qk_norm="full", experts=Experts(width=("intermediate_size",))),
    "GraniteMoeForCausalLM": GRANITE_MOE,
    "GraniteMoeSharedForCausalLM": GRANITE_SHARED,
    "GraniteMoeSWAForCausalLM": replace(GRANITE_SHARED, sinks=True, harmless=("layer_rope_theta",)),
    "PhiMoEForCausalLM": replace(
        PHI3,
        bias_qkv="attention_bias",
        bias_out="attention_bias",
        norm_bias=True,
        experts=Experts(width=("intermediate_size",), name="block_sparse_moe"),
    ),
    "PhimoeForCausalLM": replace(
        PHI3,
        bias_qkv="attention_bias",
        bias_out="attention_bias",
        norm_bias=True,
        experts=Experts(width=("intermediate_size",), name="block_sparse_moe"),
    ),
    "Ernie4_5ForCausalLM": USE_BIAS,
    "Ernie4_5_ForCausalLM": USE_BIAS,
    "Ernie4_5_MoeForCausalLM": replace(
        USE_BIAS,
        experts=Experts("range", ("moe_intermediate_size",), shared="count", correction=True),
        harmless=(
            "moe_capacity",
            "moe_gate",
            "moe_use_aux_free",
            "moe_multimodal_dispatch_use_allgather",
            "fuse_rope",
        ),
    ),
    "Ernie4_5_VLMoeForCausalLM": replace(
        USE_BIAS,
        experts=Experts("range", ("moe_intermediate_size",), shared="count", correction=True),
        code="ernie_vl",
        harmless=("moe_capacity", "moe_gate", "moe_use_aux_free", "moe_multimodal_dispatch_use_allgather"),
    ),
    "LongcatFlashForCausalLM": Family(code="longcat"),
    "Zamba2ForCausalLM": Family(code="zamba2", tied=True),
    "HunYuanDenseV1ForCausalLM": Family(
        qk_norm="head",
        qk_norm_if="use_qk_norm=true",
        expects=(("use_cla", (False,)),),
        code="hunyuan",
    ),
    "HunYuanMoEV1ForCausalLM": Family(
        qk_norm="head",
        qk_norm_if="use_qk_norm=true",
        expects=(("use_cla", (False,)),),
        code="hunyuan",
        experts=Experts(shared="count"),
    ),
    "HYV3ForCausalLM": Family(qk_norm="head", experts=DEEPSEEK),
    "ExaoneMoeForCausalLM": Family(qk_norm="head", windows="pattern", period=4, experts=DEEPSEEK),
    "ExaoneMoEForCausalLM": Family(qk_norm="head", windows="pattern", period=4, experts=DEEPSEEK),
    "BailingMoeForCausalLM": BAILING,
    "BailingMoeV2ForCausalLM": BAILING,
    "BailingMoEForCausalLM": BAILING,
    "SolarOpenForCausalLM": Family(experts=DEEPSEEK, qk_norm="head", qk_norm_if="use_qk_norm"),
    "AfmoeForCausalLM": Family(
        qk_norm="head",
        gate="wide",
        norms=4,
        windows="pattern",
        period=4,
        experts=Experts("first_dense", ("moe_intermediate_size",), shared="count", correction=True),
    ),
    "LagunaForCausalLM": Family(
        qk_norm="head",
        gate="head",
        gate_if="gating=true",
        experts=Experts("first_dense", ("moe_intermediate_size",), shared="width", correction=True),
        code="laguna",
    ),
    "MellumForCausalLM": Family(qk_norm="head", experts=Experts(width=("moe_intermediate_size",))),
    "FlintForCausalLM": Family(
        qk_norm="head", sinks=True, experts=Experts("step", ("moe_intermediate_size",), shared="width")
    ),
    "Kolibri1ForCausalLM": Family(
        qk_norm="head", norms=4, experts=Experts(width=("moe_intermediate_size",), shared="width")
    ),
    "BeamForCausalLM": Family(
        qk_norm="head",
        gate="wide",
        norms=4,
        experts=Experts("first_dense", ("moe_intermediate_size",)),
        extra=(("self_attn.gate_bias", ("num_attention_heads",)),),
    ),
    "AriaTextForCausalLM": Family(experts=Experts(width=("intermediate_size",), shared="count")),
    "Cohere2MoeForCausalLM": replace(
        COHERE,
        windows="pattern",
        period=4,
        qk_norm="",
        qk_norm_if=True,
        experts=Experts(
            "first_dense",
            ("intermediate_size",),
            shared="count",
            dense=("prefix_dense_intermediate_size", "intermediate_size"),
        ),
        harmless=("prefix_dense_sliding_window_pattern",),
    ),
    "DbrxForCausalLM": Family(norms=2, code="dbrx", experts=Experts(width=("ffn_hidden_size",))),
    "Step3p5ForCausalLM": STEP3P5,
    "Step3p7FlashForCausalLM": replace(
        STEP3P5, experts=Experts("first_dense", ("moe_intermediate_size",), shared="width", correction=True)
    ),
    "GptOssForCausalLM": Family(
        bias_qkv="attention_bias=true",
        bias_out="attention_bias=true",
        sinks=True,
        experts=Experts(width=("intermediate_size",), router_bias=True, bias=True),
    ),
    "MiniMaxM3ForCausalLM": Family(code="minimax"),
    "DeciLMForCausalLM": Family(code="decilm"),
    # Recurrent layers, alone or beside attention
    "JambaForCausalLM": Family(
        linear="mamba1",
        rope=False,
        bias_qkv=False,
        bias_out=False,
        experts=Experts("period", ("intermediate_size",), name="feed_forward"),
    ),
    "BambaForCausalLM": Family(linear="mamba2"),
    "GraniteMoeHybridForCausalLM": replace(
        GRANITE_SHARED,
        linear="mamba2",
        harmless=("position_embedding_type", "normalization_function", "init_method"),
    ),
    "FalconH1ForCausalLM": Family(
        linear="mamba2",
        parallel_mixers=True,
        harmless=("mamba_use_mlp", "projectors_bias", "attn_layer_indices"),
        defaults=(("mamba_rms_norm", False),),
    ),
    "NemotronHForCausalLM": Family(
        prefix="backbone.",
        linear="mamba2",
        single_block=True,
        norms=1,
        mlp="plain",
        rope=False,
        experts=Experts(
            "none",
            ("moe_intermediate_size",),
            shared="width",
            correction=True,
            gated=False,
            name="mixer",
            dense=("intermediate_size",),
        ),
        harmless=(
            "num_shared_experts",
            "n_shared_experts",
            "moe_shared_expert_overlap",
            "hybrid_override_pattern",
            "time_step_rank",
        ),
        bias_mlp="mlp_bias",
    ),
    "MambaForCausalLM": MAMBA,
    "FalconMambaForCausalLM": MAMBA,
    "Mamba2ForCausalLM": Family(linear="mamba2", norms=1, rope=False, tied=False),
    "MiniMaxForCausalLM": MINIMAX_01,
    "MiniMaxText01ForCausalLM": MINIMAX_01,
    "MiniMaxM1ForCausalLM": MINIMAX_01,
    "Lfm2ForCausalLM": LFM2,
    "Lfm2MoeForCausalLM": replace(
        LFM2,
        width_rule="",
        experts=Experts("first_dense", ("moe_intermediate_size",), correction=True),
        harmless=("use_expert_bias", *LFM2.harmless),
    ),
    "Lfm3ForCausalLM": replace(
        LFM2,
        width_rule="",
        gate="head",
        gate_if="use_attention_gate=true",
        post_norms="use_sandwich_norm=true",
    ),
}
