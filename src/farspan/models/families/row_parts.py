"""What several rows of the tables of families have in common."""

from __future__ import annotations

from dataclasses import replace

from farspan.models.families.declaration import Experts, Family

LLAMA = Family(windows="all")
QWEN2 = Family(
    bias_qkv=True,
    bias_out=False,
    windows="some",
    harmless=("attention_bias", "qkv_bias"),
    expects=(("use_qk_norm", (False,)),),
)
QWEN3 = Family(qk_norm="head", windows="some", expects=(("use_qk_norm", (True,)),))
STEP = Experts("step", ("moe_intermediate_size",))
DEEPSEEK = Experts("first_dense", ("moe_intermediate_size",), shared="count", correction=True)
GPT = Family(
    bias_qkv=True, bias_out=True, bias_mlp=True, norm_bias=True, mlp="plain", width_rule="4x", tied=True
)
USE_BIAS = Family(tied=True, bias_qkv="use_bias", bias_out="use_bias", bias_mlp="use_bias")
GEMMA = Family(tied=True)
GEMMA2 = Family(tied=True, norms=4, windows="pattern", period=2)
# transformers' default; the configs of 4B and more leave it out.
GEMMA3 = replace(GEMMA2, qk_norm="head", period=6, defaults=(("rope_local_base_freq", 10_000.0),))
COHERE = Family(norms=1, tied=True, qk_norm="full", qk_norm_if="use_qk_norm")
PHI3 = Family(windows="all", bias_qkv=False, bias_out=False)
GRANITE_MOE = Family(experts=Experts(width=("intermediate_size",), name="block_sparse_moe"))
GRANITE_SHARED = replace(
    GRANITE_MOE,
    experts=Experts(
        width=("intermediate_size",),
        shared="width",
        name="block_sparse_moe",
        dense=("shared_intermediate_size",),
    ),
)
BAILING = Family(
    bias_qkv="use_qkv_bias",
    bias_out="use_bias",
    bias_mlp="use_bias",
    qk_norm="head",
    qk_norm_if="use_qk_norm",
    experts=Experts("first_dense", ("moe_intermediate_size",), shared="count"),
    harmless=("norm_head", "norm_softmax", "moe_router_enable_expert_bias", "router_type", "use_rmsnorm"),
)
MAMBA = Family(linear="mamba1", norms=1, tied=True, rope=False)
MINIMAX_01 = Family(
    linear="lightning",
    experts=Experts(width=("intermediate_size",), name="block_sparse_moe"),
    harmless=(
        "block_size",
        "postnorm",
        "layernorm_full_attention_alpha",
        "layernorm_full_attention_beta",
        "layernorm_linear_attention_alpha",
        "layernorm_linear_attention_beta",
        "layernorm_mlp_alpha",
        "layernorm_mlp_beta",
        "shared_moe_mode",
        "max_model_len",
    ),
    expects=(("shared_intermediate_size", (0,)),),
)
QWEN3_NEXT = Family(
    linear="gdn",
    qk_norm="head",
    gate="wide",
    gate_if="attn_output_gate=true",
    experts=Experts("step", ("moe_intermediate_size",), shared="width", shared_gate=True),
)
LFM2 = Family(
    linear="conv", qk_norm="head", tied=True, width_rule="lfm", harmless=("tie_embedding", "use_pos_enc")
)
MLA = Family(latent=True, bias_qkv=False, bias_out=False, expects=(("attention_bias", (False,)),))
MLA_MOE = replace(MLA, experts=DEEPSEEK)
STEP3P5 = Family(
    code="step",
    qk_norm="head",
    gate="head",
    windows="none",
    experts=Experts("first_dense", ("moe_intermediate_size",), shared="width"),
    harmless=(
        "share_expert_dim",
        "use_head_wise_attn_gate",
        "yarn_only_types",
        "partial_rotary_factors",
        "use_moe",
        "moe_router_activation",
        "moe_router_scaling_factor",
        "need_fp32_gate",
        "use_moe_router_bias",
        "sink",
        "zero_centered",
        "norm_expert_weight",
        "max_seq_len",
        "att_impl_type",
        "use_rope_layers",
    ),
)
