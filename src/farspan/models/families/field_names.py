"""Names of config fields: other spellings of the same thing, and the names that cannot change memory."""

from __future__ import annotations

import re

# What families call the fields that every decoder has.
ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "d_model", "dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "num_query_groups", "num_attention_groups"),
    "max_position_embeddings": (
        "n_positions",
        "max_seq_len",
        "seq_length",
        "max_sequence_length",
        "model_max_length",
        "n_ctx",
        "max_seq_length",
    ),
    "intermediate_size": ("ffn_hidden_size", "n_inner", "ffn_dim", "ffn_intermediate_size"),
    "vocab_size": ("padded_vocab_size",),
    "head_dim": ("attention_head_dim", "kv_channels", "n_embd_head"),
    "num_experts": (
        "n_routed_experts",
        "num_local_experts",
        "moe_num_experts",
        "num_routed_experts",
        "n_experts",
    ),
    "num_experts_per_tok": (
        "num_experts_per_token",
        "moe_topk",
        "moe_k",
        "moe_top_k",
        "top_k_experts",
        "experts_per_token",
        "num_experts_per_topk",
        "num_topk",
    ),
    "moe_intermediate_size": ("moe_ffn_hidden_size", "expert_ffn_hidden_size", "moe_ffn_dim"),
    "num_shared_experts": (
        "n_shared_experts",
        "num_shared_expert",
        "moe_num_shared_experts",
        "n_shared_expert",
    ),
    "shared_expert_intermediate_size": (
        "moe_shared_expert_intermediate_size",
        "share_expert_dim",
        "shared_intermediate_size",
        "moe_shared_intermediate_size",
    ),
    "first_k_dense_replace": ("num_dense_layers", "n_dense_layers", "moe_first_k_dense", "num_dense_layer"),
    "sliding_window": ("sliding_window_size", "window_size", "attention_window_size"),
    "sliding_window_pattern": (
        "_sliding_window_pattern",
        "global_attn_every_n_layers",
        "layer_pattern",
        "swa_period",
        "local_attention_pattern",
    ),
}

# Fields that Hugging Face writes for every model, and loaders' and trainers' hints.
_HARMLESS = frozenset(
    """
    dual_chunk_attention_config num_image_tokens mtp_hidden_states_first
    _name_or_path activation activation_function activation_sparsity_pattern add_cross_attention
    altup_active_idx altup_coef_clip altup_correct_scale apply_residual_connection_post_layernorm architectures
    attention_in_multiplier attention_multiplier attention_out_multiplier attention_scale
    attention_softmax_in_fp32 attention_value_scale attn_logit_softcapping attn_scale attn_temperature_tuning
    auto_map aux_loss_alpha bad_words_ids begin_suppress_tokens bf16 cache_implementation chunk_size
    chunk_size_feed_forward clip_qkv conditional cross_attention_hidden_size dense_list dim_model_base
    diversity_penalty do_sample dtype early_stopping embedding_multiplier enable_moe_fp32_combine
    encoder_no_repeat_ngram_size ep_size expert_selection_fn exponential_decay_length_penalty
    final_logit_softcapping finetuning_task floor_scale for_llm_compressor fp16 fp32 full_attn_mod
    gate_lower_bound hc_eps hc_magnitude hc_sinkhorn_iters hidden_act hidden_activation hidden_dropout id2label
    ignore_index index_share_for_mtp_iteration index_skip_topk_offset indexer_rope_interleave init_device
    initial_context_length interpolate_factor is_causal is_decoder is_encoder_decoder kda_lower_bound
    kda_safe_gate key_multiplier label2id language learnable_sink_init length_penalty linear_lower_bound
    lm_head_multiplier logit_scale logit_softcap logits_scaling mamba_chunk_size mamba_hidden_act
    mamba_norm_before_gate max_length max_new_tokens min_length mlp_hidden_act mlp_multipliers model_type
    moe_apply_router_weight_on_input moe_norm_min moe_renormalize moe_routed_scaling_factor
    moe_router_activation moe_router_activation_func moe_router_dtype moe_router_logit_softcapping
    moe_router_scaling_factor moe_shared_expert_overlap mrope_interleaved mtp_hybrid_override_pattern
    mtp_layer_types mtp_layers_block_type mtp_mlp_layer_types mtp_num_hidden_layers mtp_transformer_layers
    mtp_use_dedicated_embeddings mup_enabled n_group no_repeat_ngram_size no_rope_layer_interval norm_eps
    norm_topk_prob num_beam_groups num_beams num_expert_group num_labels num_logits_to_keep num_mtp_modules
    num_nextn_predict_layers num_return_sequences onnx_safe original_max_position_embeddings output_attentions
    output_gate_type output_hidden_states output_router_logits output_scores pad_id positional_embedding
    pre_seq_len prefix prefix_projection pretraining_tp problem_type pruned_heads quantization_bit
    query_pre_attn_scalar remove_invalid_values reorder_and_upcast_attn repetition_penalty
    rescale_prenorm_residual residual_in_fp32 residual_multiplier return_dict return_dict_in_generate
    rope_interleave rope_interleaved rope_local_base_freq rope_pct rope_ratio rope_scaling_type rope_theta
    rotary_pct route_norm route_scale routed_scaling_factor router_dtype router_scaling_factor router_type
    scale_attention_softmax_in_fp32 scale_attn_by_inverse_layer_idx scale_attn_weights scale_depth scale_emb
    score_func scoring_func seq_aux shared_expert_combination_strategy slow_but_exact softmax_in_fp32
    ssm_in_multiplier ssm_multipliers ssm_out_multiplier summary_type suppress_tokens swiglu_alpha swiglu_limit
    swiglu_limits swiglu_limits_shared task_specific_params temperature text_config_dict tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p topk_group topk_method torch_dtype torchscript
    transformers.js_config transformers_version typical_p use_associative_scan use_bfloat16
    use_bidirectional_attention use_cache use_cache_kernel use_cache_quantization use_dynamic_ntk use_flash_attn
    use_gemma_norm use_grouped_topk use_logn_attn use_lrpe use_mamba_kernels use_mambapy use_medusa
    use_mem_eff_path use_mrope use_mtp use_rope_scaling verbose vision_config_dict z_loss_coefficient
    """.split()  # noqa: SIM905
)
_HARMLESS_PATTERN = re.compile(
    r"""
    .*_token_ids?(_list)?$ | .*_token_index$ | .*_token$ | .*dropout.* | .*_pdrop$ | layerdrop$ | .*_drop$ |
    .*(_loss|aux_loss|loss_).* | .*_coef(ficient)?$ | .*initializer.* | .*init_(std|scale|range)$ | .*_std$ |
    .*(layer)?_?norm_eps(ilon)?$ | .*_epsilon$ | .*_eps$ | rms_eps$ | layernorm_epsilon$ | unsloth_.* |
    is_.*_config$ | _(?!.*(cache|window|kv|state|layer)).*$ | no_rope_layers$ | use_.*_kernels?$ |
    _attn_implementation.* | .*attn_implementation$ | _.*_internal$ | .*_jitter.* | time_step_.* | .*_theta$ |
    .*_rope_theta$ | summary_.* | .*_alpha_factor$ | .*_beta_factor$ | alpha_.* | .*_multiplier$
    """,
    re.VERBOSE,
)
_CACHE = re.compile(
    r"(^|[_.])(index|indexer|kv|window|windows|state|states|cache|latent|compress\w*)([_.]|$)"
)


def spellings(name: str) -> tuple[str, ...]:
    """A field's names: its own, and those other configs give it."""
    return (name, *ALIASES.get(name, ()))


def is_harmless(name: str, value: object) -> bool:
    """Whether an unread field changes no byte of weights or KV: by its name, or because its value is nothing."""
    if value is None or value is False or value == "" or value == [] or value == {}:
        return True
    if name == "attn_type_list" and isinstance(value, list) and set(value) == {1}:
        return True
    return name in _HARMLESS or _HARMLESS_PATTERN.match(name) is not None


def names_a_cache(name: str) -> bool:
    """Whether a field's name says that it is about what a layer keeps of the past."""
    return _CACHE.search(name) is not None
