"""The families' declarations: one row an architecture, by the name its config.json carries.

Layouts follow transformers 5.23 (modeling files of the same name) and, where it has no class, vllm 0.33.0's models of
the same name. A row says only where a family differs from the plainest decoder: grouped-query attention with RoPE, a
gated MLP, two RMS norms a layer, an output head of its own.
"""

from __future__ import annotations

from dataclasses import replace

from farspan.models.families.declaration import Experts, Family

_LLAMA = Family(windows="all")
_QWEN2 = Family(
    bias_qkv=True,
    bias_out=False,
    windows="some",
    harmless=("attention_bias", "qkv_bias"),
    expects=(("use_qk_norm", (False,)),),
)
_QWEN3 = Family(qk_norm="head", windows="some", expects=(("use_qk_norm", (True,)),))
_STEP = Experts("step", ("moe_intermediate_size",))
_DEEPSEEK = Experts("first_dense", ("moe_intermediate_size",), shared="count", correction=True)
_GPT = Family(
    bias_qkv=True, bias_out=True, bias_mlp=True, norm_bias=True, mlp="plain", width_rule="4x", tied=True
)
_USE_BIAS = Family(tied=True, bias_qkv="use_bias", bias_out="use_bias", bias_mlp="use_bias")
_GEMMA = Family(tied=True)
_GEMMA2 = Family(tied=True, norms=4, windows="pattern", period=2)
_GEMMA3 = replace(_GEMMA2, qk_norm="head", period=6)
_COHERE = Family(norms=1, tied=True, qk_norm="full", qk_norm_if="use_qk_norm")
_PHI3 = Family(windows="all", bias_qkv=False, bias_out=False)
_GRANITE_MOE = Family(experts=Experts(width=("intermediate_size",), name="block_sparse_moe"))
_GRANITE_SHARED = replace(
    _GRANITE_MOE,
    experts=Experts(
        width=("intermediate_size",),
        shared="width",
        name="block_sparse_moe",
        dense=("shared_intermediate_size",),
    ),
)
_BAILING = Family(
    bias_qkv="use_qkv_bias",
    bias_out="use_bias",
    bias_mlp="use_bias",
    qk_norm="head",
    qk_norm_if="use_qk_norm",
    experts=Experts("first_dense", ("moe_intermediate_size",), shared="count"),
    harmless=("norm_head", "norm_softmax", "moe_router_enable_expert_bias", "router_type", "use_rmsnorm"),
)
_MAMBA = Family(linear="mamba1", norms=1, tied=True, rope=False)
_MINIMAX_01 = Family(
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
_QWEN3_NEXT = Family(
    linear="gdn",
    qk_norm="head",
    gate="wide",
    gate_if="attn_output_gate=true",
    experts=Experts("step", ("moe_intermediate_size",), shared="width", shared_gate=True),
)
_LFM2 = Family(
    linear="conv", qk_norm="head", tied=True, width_rule="lfm", harmless=("tie_embedding", "use_pos_enc")
)
_MLA = Family(latent=True, bias_qkv=False, bias_out=False, expects=(("attention_bias", (False,)),))
_MLA_MOE = replace(_MLA, experts=_DEEPSEEK)
_STEP3P5 = Family(
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

FAMILIES: dict[str, Family] = {
    # Llama and what is built like it
    "LlamaForCausalLM": _LLAMA,
    "LLaMAForCausalLM": _LLAMA,
    "MistralForCausalLM": replace(_LLAMA, bias_qkv=False, bias_out=False),
    "MinistralForCausalLM": replace(_LLAMA, bias_qkv=False, bias_out=False),
    "Ministral3ForCausalLM": replace(_LLAMA, bias_qkv=False, bias_out=False),
    "MixtralForCausalLM": replace(
        _LLAMA, experts=Experts(width=("intermediate_size",), name="block_sparse_moe")
    ),
    "InternLM2ForCausalLM": Family(bias_qkv="bias", bias_out="bias"),
    "InternLM3ForCausalLM": Family(bias_qkv="qkv_bias", bias_out="bias", bias_mlp="bias"),
    "InternLMForCausalLM": Family(bias_qkv="bias=true", bias_out="bias=true"),
    "BaichuanForCausalLM": _LLAMA,
    "BaiChuanForCausalLM": _LLAMA,
    "AquilaForCausalLM": _LLAMA,
    "AquilaModel": _LLAMA,
    "XverseForCausalLM": _LLAMA,
    "SolarForCausalLM": _LLAMA,
    "TeleChat3ForCausalLM": _LLAMA,
    "TeleFLMForCausalLM": replace(
        _LLAMA, harmless=("use_mup", "mup_scale_factor", "input_mult", "output_mult")
    ),
    "IQuestCoderForCausalLM": _LLAMA,
    "HeliumForCausalLM": _LLAMA,
    "CwmForCausalLM": Family(),
    "OrionForCausalLM": Family(norm_bias=True),
    "ExaoneForCausalLM": Family(),
    "SeedOssForCausalLM": Family(bias_qkv="attention_bias=true", bias_out="attention_out_bias"),
    "SmolLM3ForCausalLM": Family(tied=True, windows="some", harmless=("no_rope_layers",)),
    "ArceeForCausalLM": Family(mlp="plain"),
    "ApertusForCausalLM": Family(mlp="plain", qk_norm="head", extra=(("act_fn.alpha", ("2",)),)),
    "GraniteForCausalLM": _LLAMA,
    "GraniteSWAForCausalLM": Family(sinks=True, harmless=("layer_rope_theta",)),
    "HyperCLOVAXForCausalLM": Family(post_norms="use_post_norm"),
    "MiniCPMForCausalLM": Family(harmless=("use_rope",)),
    "BitNetForCausalLM": Family(inner_norms=True),
    "YoutuForCausalLM": replace(_MLA, tied=True),
    "MiniCPM3ForCausalLM": replace(_MLA, tied=True),
    "Jais2ForCausalLM": Family(
        bias_qkv="attention_bias=true",
        bias_out="attention_bias=true",
        bias_mlp="mlp_bias=true",
        norm_bias=True,
        mlp="plain",
    ),
    "NanoChatForCausalLM": Family(norm_weights=False, final_norm=False, mlp="plain"),
    "ChatGLMModel": Family(
        bias_qkv="add_qkv_bias",
        bias_out="add_bias_linear",
        bias_mlp="add_bias_linear",
        code="chatglm",
    ),
    "ChatGLMForConditionalGeneration": Family(
        bias_qkv="add_qkv_bias",
        bias_out="add_bias_linear",
        bias_mlp="add_bias_linear",
        code="chatglm",
    ),
    "QWenLMHeadModel": Family(
        bias_qkv=True, bias_out=False, width_rule="swiglu", harmless=("no_bias", "rotary_emb_base")
    ),
    # Qwen
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
    "Qwen2MoeForCausalLM": Family(
        bias_qkv="qkv_bias=true",
        bias_out=False,
        windows="some",
        experts=Experts("step", ("moe_intermediate_size",), shared="width", shared_gate=True),
    ),
    "Qwen3MoeForCausalLM": replace(
        _QWEN3, experts=_STEP, expects=(*_QWEN3.expects, ("shared_expert_intermediate_size", (0,)))
    ),
    "Qwen3NextForCausalLM": _QWEN3_NEXT,
    "MiMoForCausalLM": _QWEN2,
    "Qwen3_5ForCausalLM": _QWEN3_NEXT,
    "Qwen3_5MoeForCausalLM": _QWEN3_NEXT,
    "Qwen4ExpForCausalLM": replace(
        _QWEN3_NEXT,
        experts=Experts(width=("moe_intermediate_size",), shared="width", shared_gate=True),
        harmless=(
            "number_of_conv_states",
            "hc_count",
            "hc_lowrank",
            "ple_embed_dim",
            "ple_conv_kernel_size",
            "ngram_size",
            "heads_per_ngram",
            "ngram_vocab_size_base",
            "make_ngram_vocab_size_divisible_by",
            "seed",
            "split_ngram_parts",
        ),
        expects=(("ple_layer_ids", ([],)),),
        note="assumed: its residual streams and n-gram tables are not counted",
    ),
    "LaraMiniForCausalLM": replace(
        _QWEN3_NEXT, gate="", tied=True, experts=Experts(width=("moe_intermediate_size",), shared="width")
    ),
    # Gemma
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": _GEMMA3,
    "Rnj1ForCausalLM": _GEMMA3,
    "Gemma3nForCausalLM": replace(_GEMMA3, period=5, code="gemma3n"),
    "VaultGemmaForCausalLM": Family(tied=True, windows="pattern", period=2),
    # GLM
    "GlmForCausalLM": Family(bias_out=False),
    "Glm4ForCausalLM": Family(bias_out=False, norms=4),
    "Glm4MoeForCausalLM": Family(bias_out=False, qk_norm="head", qk_norm_if="use_qk_norm", experts=_DEEPSEEK),
    "Glm4MoeLiteForCausalLM": _MLA_MOE,
    # DeepSeek's layout: one latent a token, many small experts
    "DeepseekForCausalLM": Family(experts=Experts("first_dense", ("moe_intermediate_size",), shared="count")),
    "DeepseekV2ForCausalLM": _MLA_MOE,
    "DeepseekV3ForCausalLM": _MLA_MOE,
    "DeepseekV32ForCausalLM": _MLA_MOE,
    "GlmMoeDsaForCausalLM": _MLA_MOE,
    "Mistral4ForCausalLM": _MLA_MOE,
    "MistralLarge3ForCausalLM": _MLA_MOE,
    "AXK1ForCausalLM": replace(_MLA_MOE, extra=(("post_mlp_layernorm", ("hidden",)),)),
    "Dots1ForCausalLM": Family(qk_norm="head", experts=_DEEPSEEK),
    "HYV4ForCausalLM": replace(
        _MLA_MOE, gate="wide", sinks=True, code="hyper_connections", expects=(), harmless=("attention_bias",)
    ),
    "Glm5NextForCausalLM": replace(
        _MLA_MOE, linear="kda", code="hyper_connections", harmless=("index_kpool_always_select_tail",)
    ),
    "KimiLinearForCausalLM": replace(_MLA_MOE, linear="kda", harmless=("mla_use_nope",)),
    "BailingHybridForCausalLM": replace(
        _MLA_MOE, linear="kda", gate="head", harmless=("short_conv_kernel_size", "layer_group_size")
    ),
    # Experts of other layouts
    "OlmoeForCausalLM": Family(qk_norm="full", experts=Experts(width=("intermediate_size",))),
    "FlexOlmoForCausalLM": Family(qk_norm="full", experts=Experts(width=("intermediate_size",))),
    "GraniteMoeForCausalLM": _GRANITE_MOE,
    "GraniteMoeSharedForCausalLM": _GRANITE_SHARED,
    "GraniteMoeSWAForCausalLM": replace(_GRANITE_SHARED, sinks=True, harmless=("layer_rope_theta",)),
    "PhiMoEForCausalLM": replace(
        _PHI3,
        bias_qkv="attention_bias",
        bias_out="attention_bias",
        norm_bias=True,
        experts=Experts(width=("intermediate_size",), name="block_sparse_moe"),
    ),
    "PhimoeForCausalLM": replace(
        _PHI3,
        bias_qkv="attention_bias",
        bias_out="attention_bias",
        norm_bias=True,
        experts=Experts(width=("intermediate_size",), name="block_sparse_moe"),
    ),
    "Ernie4_5ForCausalLM": _USE_BIAS,
    "Ernie4_5_ForCausalLM": _USE_BIAS,
    "Ernie4_5_MoeForCausalLM": replace(
        _USE_BIAS,
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
        _USE_BIAS,
        experts=Experts("range", ("moe_intermediate_size",), shared="count", correction=True),
        code="ernie_vl",
        harmless=("moe_capacity", "moe_gate", "moe_use_aux_free", "moe_multimodal_dispatch_use_allgather"),
    ),
    "LongcatFlashForCausalLM": Family(code="longcat"),
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
    "HYV3ForCausalLM": Family(qk_norm="head", experts=_DEEPSEEK),
    "ExaoneMoeForCausalLM": Family(qk_norm="head", windows="pattern", period=4, experts=_DEEPSEEK),
    "ExaoneMoEForCausalLM": Family(qk_norm="head", windows="pattern", period=4, experts=_DEEPSEEK),
    "BailingMoeForCausalLM": _BAILING,
    "BailingMoeV2ForCausalLM": _BAILING,
    "BailingMoEForCausalLM": _BAILING,
    "SolarOpenForCausalLM": Family(experts=_DEEPSEEK, qk_norm="head", qk_norm_if="use_qk_norm"),
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
        _COHERE,
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
    "Step3p5ForCausalLM": _STEP3P5,
    "Step3p7FlashForCausalLM": replace(
        _STEP3P5, experts=Experts("first_dense", ("moe_intermediate_size",), shared="width", correction=True)
    ),
    "GptOssForCausalLM": Family(
        bias_qkv="attention_bias=true",
        bias_out="attention_bias=true",
        sinks=True,
        experts=Experts(width=("intermediate_size",), router_bias=True, bias=True),
    ),
    "MiniMaxM3ForCausalLM": Family(code="minimax"),
    "DeciLMForCausalLM": Family(code="decilm"),
    # Windows, norms and biases of their own
    "Olmo2ForCausalLM": Family(qk_norm="full"),
    "Olmo3ForCausalLM": Family(qk_norm="full", windows="pattern", period=4),
    "OlmoForCausalLM": Family(norm_weights=False, final_norm=False),
    "OlmoHybridForCausalLM": Family(
        linear="gdn",
        qk_norm="full",
        harmless=(
            "linear_a_log_max",
            "linear_a_log_min",
            "linear_allow_neg_eigval",
            "linear_dt_init_floor",
            "linear_dt_max",
            "linear_dt_min",
            "linear_use_gate",
        ),
    ),
    "Exaone4ForCausalLM": Family(qk_norm="head", windows="pattern", period=4),
    "CohereForCausalLM": _COHERE,
    "Cohere2ForCausalLM": replace(
        _COHERE,
        qk_norm="",
        qk_norm_if=True,
        windows="pattern",
        period=4,
        harmless=(
            "order_of_interleaved_layers",
            "position_embedding_type",
            "rotary_pct",
            "use_embedding_sharing",
            "use_gated_activation",
            "use_parallel_block",
            "use_parallel_embedding",
            "layer_switch",
        ),
    ),
    "Phi3ForCausalLM": replace(_PHI3, harmless=("original_max_position_embeddings",)),
    "PhiForCausalLM": Family(
        bias_qkv=True,
        bias_out=True,
        bias_mlp=True,
        bias_head=True,
        norm_bias=True,
        norms=1,
        mlp="plain",
        width_rule="4x",
        qk_norm="head",
        qk_norm_if="qk_layernorm",
        qk_norm_bias=True,
    ),
    "StableLmForCausalLM": Family(
        bias_qkv="use_qkv_bias",
        bias_out=False,
        norm_bias=True,
        qk_norm="full",
        qk_norm_if="qk_layernorm",
        harmless=("use_parallel_residual", "rope_pct"),
    ),
    "StableLMEpochForCausalLM": Family(
        bias_qkv="use_qkv_bias",
        bias_out=False,
        norm_bias=True,
        harmless=("rope_pct", "rotary_scaling_factor"),
    ),
    "NemotronForCausalLM": Family(mlp="plain", norm_bias=True, harmless=("rope_percent",)),
    "Starcoder2ForCausalLM": Family(
        bias_qkv="use_bias=true",
        bias_out="use_bias=true",
        bias_mlp="use_bias=true",
        norm_bias=True,
        mlp="plain",
        tied=True,
        windows="all",
        harmless=("mlp_type", "norm_type"),
    ),
    "PersimmonForCausalLM": Family(
        bias_qkv=True,
        bias_out=True,
        bias_mlp=True,
        norm_bias=True,
        mlp="plain",
        qk_norm="head",
        qk_norm_if="qk_layernorm=true",
        qk_norm_bias=True,
    ),
    # GPT
    "GPT2LMHeadModel": replace(_GPT, positions=0, rope=False),
    "GPTBigCodeForCausalLM": replace(
        _GPT,
        positions=0,
        rope=False,
        harmless=(
            "attention_head_type",
            "inference_runner",
            "max_batch_size",
            "max_sequence_length",
            "pad_key_length",
            "pre_allocate_kv_cache",
            "validate_runner_input",
            "runner_max_sequence_length",
        ),
    ),
    "GPTJForCausalLM": replace(
        _GPT,
        bias_qkv=False,
        bias_out=False,
        norms=1,
        bias_head=True,
        tied=False,
        harmless=("rotary", "gradient_checkpointing"),
    ),
    "CodeGenForCausalLM": replace(_GPT, bias_qkv=False, bias_out=False, norms=1, bias_head=True, tied=False),
    "GPTNeoXForCausalLM": replace(
        _GPT,
        bias_qkv="attention_bias=true",
        bias_out="attention_bias=true",
        tied=False,
        width_rule="",
        harmless=("use_parallel_residual", "classifier_dropout"),
    ),
    "BloomForCausalLM": replace(
        _GPT,
        embedding_norm=True,
        rope=False,
        harmless=(
            "offset_alibi",
            "skip_bias_add",
            "skip_bias_add_qkv",
            "attention_softmax_in_fp32",
            "bias_dropout_fusion",
            "masked_softmax_fusion",
            "hidden_dropout",
            "seq_length",
        ),
    ),
    "OPTForCausalLM": replace(
        _GPT,
        positions=2,
        rope=False,
        width_rule="",
        bias_qkv="enable_bias=true",
        bias_out="enable_bias=true",
        bias_mlp="enable_bias=true",
        harmless=("do_layer_norm_before", "layer_norm_elementwise_affine", "_remove_final_layer_norm"),
        code="opt",
    ),
    "FalconForCausalLM": replace(
        _GPT,
        bias_qkv="bias",
        bias_out="bias",
        bias_mlp="bias",
        norms=1,
        code="falcon",
        harmless=(
            "alibi",
            "parallel_attn",
            "num_ln_in_parallel_attn",
            "apply_residual_connection_post_layernorm",
        ),
    ),
    "RWForCausalLM": replace(
        _GPT,
        bias_qkv="bias",
        bias_out="bias",
        bias_mlp="bias",
        norms=1,
        code="falcon",
        harmless=("alibi", "parallel_attn"),
    ),
    "MptForCausalLM": Family(norms=2, mlp="plain", width_rule="4x", tied=True, rope=False, code="mpt"),
    "MPTForCausalLM": Family(norms=2, mlp="plain", width_rule="4x", tied=True, rope=False, code="mpt"),
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
        _GRANITE_SHARED,
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
    "MambaForCausalLM": _MAMBA,
    "FalconMambaForCausalLM": _MAMBA,
    "Mamba2ForCausalLM": Family(linear="mamba2", norms=1, rope=False, tied=False),
    "MiniMaxForCausalLM": _MINIMAX_01,
    "MiniMaxText01ForCausalLM": _MINIMAX_01,
    "MiniMaxM1ForCausalLM": _MINIMAX_01,
    "Lfm2ForCausalLM": _LFM2,
    "Lfm2MoeForCausalLM": replace(
        _LFM2,
        width_rule="",
        experts=Experts("first_dense", ("moe_intermediate_size",), correction=True),
        harmless=("use_expert_bias", *_LFM2.harmless),
    ),
    "Lfm3ForCausalLM": replace(
        _LFM2,
        width_rule="",
        gate="head",
        gate_if="use_attention_gate=true",
        post_norms="use_sandwich_norm=true",
    ),
}
